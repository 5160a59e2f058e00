package integration

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/ory/dockertest/v3"
	dc "github.com/ory/dockertest/v3/docker"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/integration/herds/containers"
)

// A patroniCluster is three nodes of PostgreSQL that Patroni looks after, and
// an etcd, each in a container with an address of its own on one network.
type patroniCluster struct {
	docker  *dockertest.Pool
	network *dockertest.Network
	nodes   []*patroniNode
}

// A patroniNode is a container in which Patroni and PostgreSQL run.
type patroniNode struct {
	cluster *patroniCluster
	name    string // which is its host name, too
	id      string // of the container

	mu      sync.Mutex
	address string // guarded by mu; of the container, empty while it has none
}

// The application's user has the one privilege that README advises.
const patroniUsers = `
	create role app login password 'application';
	grant pg_read_all_stats to app;
	create database app owner app`

// patroniConfig is that of a node, whose name takes the place of NODE. The times
// are the shortest that Patroni takes, or shorter than its defaults: ttl is for
// how long a leader that is lost remains the leader.
const patroniConfig = `
scope: herd
name: NODE
restapi: {listen: 0.0.0.0:8008, connect_address: NODE:8008}
etcd3: {host: etcd:2379}
bootstrap:
  dcs:
    ttl: 20
    loop_wait: 2
    retry_timeout: 5
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      parameters: {wal_keep_size: 1GB, shared_buffers: 32MB, max_connections: 100}
  initdb: [data-checksums, encoding: UTF8]
postgresql:
  listen: 0.0.0.0:5432
  connect_address: NODE:5432
  data_dir: /var/lib/postgresql/data/NODE
  pgpass: /tmp/pgpass
  authentication:
    superuser: {username: postgres, password: superuser}
    replication: {username: replicator, password: replicator}
  pg_hba:
    - local all all trust
    - host all all all scram-sha-256
    - host replication replicator all scram-sha-256
  parameters: {application.server: NODE}
`

// startPatroni starts a cluster, and returns when it is whole. The containers
// are removed when the test ends.
func startPatroni(t *testing.T, image string) *patroniCluster {
	t.Helper()
	docker, err := dockertest.NewPool("")
	if err == nil {
		err = docker.Client.Ping()
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := containers.Reap(docker.Client); err != nil {
		t.Fatal(err)
	}
	c := &patroniCluster{docker: docker}
	if c.network, err = docker.CreateNetwork(fmt.Sprintf("pgherd-patroni-%d", os.Getpid()), func(o *dc.CreateNetworkOptions) {
		o.Labels = containers.Labels()
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.network.Close(); err != nil {
			t.Error(err)
		}
	})
	c.run(t, image, "etcd", "", "exec etcd --data-dir /dev/shm/etcd --listen-client-urls http://0.0.0.0:2379 --advertise-client-urls http://etcd:2379")
	for i := range 3 {
		n := &patroniNode{cluster: c, name: fmt.Sprintf("pg%d", i+1)}
		n.id = c.run(t, image, n.name, strings.ReplaceAll(patroniConfig, "NODE", n.name), `printenv CONFIG >/tmp/patroni.yml; exec patroni /tmp/patroni.yml`)
		c.nodes = append(c.nodes, n)
		if err := n.lookUp(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.keepLog(t)
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	leader := c.awaitWhole(ctx, t)
	// A database cannot be created among other statements.
	for statement := range strings.SplitSeq(patroniUsers, ";") {
		if out, err := leader.exec("postgres", "psql", "-v", "ON_ERROR_STOP=1", "-c", statement); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	return c
}

// run starts a container that the others know under a host name, and returns its
// ID.
func (c *patroniCluster) run(t *testing.T, image, host, config, command string) string {
	t.Helper()
	container, err := c.docker.Client.CreateContainer(dc.CreateContainerOptions{
		Name: c.network.Network.Name + "-" + host,
		Config: &dc.Config{
			Image:    image,
			Hostname: host,
			Labels:   containers.Labels(),
			Env:      []string{"CONFIG=" + config},
			Cmd:      []string{"bash", "-c", command},
		},
		HostConfig: &dc.HostConfig{
			CapAdd: []string{"NET_ADMIN"}, // to cut itself off
			Memory: 1 << 30,
			Mounts: []dc.HostMount{{Type: "volume", Target: "/var/lib/postgresql/data"}},
		},
		NetworkingConfig: &dc.NetworkingConfig{EndpointsConfig: map[string]*dc.EndpointConfig{
			c.network.Network.Name: {Aliases: []string{host}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := containers.Remove(c.docker.Client, container.ID); err != nil {
			t.Error(err)
		}
	})
	if err := c.docker.Client.StartContainer(container.ID, nil); err != nil {
		t.Fatal(err)
	}
	return container.ID
}

// open opens the herd as an application would that knows no more than three host
// names. They are looked up as Docker does it for containers: one that is not
// running, or has no network, has no address.
func (c *patroniCluster) open(params string) (*sql.DB, error) {
	cfg, err := pgherd.ParseDSN("postgres://app:application@pg1,pg2,pg3/app?sslmode=disable" + params)
	if err != nil {
		return nil, err
	}
	cfg.LookupHost = func(_ context.Context, host string) ([]string, error) {
		for _, n := range c.nodes {
			if addr := n.addr(); n.name == host && addr != "" {
				return []string{addr}, nil
			}
		}
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return pgherd.OpenDB(cfg)
}

// leader returns the node that Patroni calls the leader, if all three are up,
// each standby follows it, and one of them, which Patroni knows, synchronously.
func (c *patroniCluster) leader(ctx context.Context) (*patroniNode, error) {
	var state struct {
		Members []struct {
			Name, Role, State string
			Timeline          int
		}
	}
	if err := c.nodes[0].get(ctx, "cluster", &state); err != nil {
		return nil, err
	}
	var leader *patroniNode
	timeline, synchronous := 0, 0
	for _, m := range state.Members {
		switch m.Role {
		case "leader":
			timeline = m.Timeline
			for _, n := range c.nodes {
				if n.name == m.Name {
					leader = n
				}
			}
		case "sync_standby":
			synchronous++
		}
	}
	if leader == nil || synchronous != 1 || len(state.Members) != len(c.nodes) {
		return nil, fmt.Errorf("it is not whole: %v", state.Members)
	}
	for _, m := range state.Members {
		if m.State != "running" || m.Timeline != timeline {
			return nil, fmt.Errorf("%s is %s on timeline %d, and the leader, %s, on %d", m.Name, m.State, m.Timeline, leader.name, timeline)
		}
	}
	conn, err := leader.connect(ctx, "postgres", "superuser", "postgres")
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	var streaming int
	if err := conn.QueryRow(ctx, `select count(*) filter (where state = 'streaming'), count(*) filter (where sync_state = 'sync') from pg_stat_replication`).
		Scan(&streaming, &synchronous); err != nil {
		return nil, err
	}
	if streaming != len(c.nodes)-1 || synchronous != 1 {
		return nil, fmt.Errorf("%d standbys follow %s, %d synchronously", streaming, leader.name, synchronous)
	}
	return leader, nil
}

// awaitWhole returns the leader when nothing is left to be done for Patroni.
func (c *patroniCluster) awaitWhole(ctx context.Context, t *testing.T) *patroniNode {
	t.Helper()
	for {
		leader, err := c.leader(ctx)
		if err == nil {
			return leader
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (n *patroniNode) addr() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.address
}

// lookUp notes the address that the container has.
func (n *patroniNode) lookUp() error {
	container, err := n.cluster.docker.Client.InspectContainer(n.id)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.address = container.NetworkSettings.Networks[n.cluster.network.Network.Name].IPAddress // of the zero value, if there is none
	return nil
}

// exec runs a command in the container, and returns what it says.
func (n *patroniNode) exec(user string, command ...string) (string, error) {
	client := n.cluster.docker.Client
	exec, err := client.CreateExec(dc.CreateExecOptions{Container: n.id, User: user, Cmd: command, AttachStdout: true, AttachStderr: true})
	if err != nil {
		return "", err
	}
	var out bytes.Buffer
	if err := client.StartExec(exec.ID, dc.StartExecOptions{OutputStream: &out, ErrorStream: &out}); err != nil {
		return "", err
	}
	ended, err := client.InspectExec(exec.ID)
	if err == nil && ended.ExitCode != 0 {
		err = fmt.Errorf("%s: exit status %d", command[0], ended.ExitCode)
	}
	return out.String(), err
}

// connect connects to the server itself.
func (n *patroniNode) connect(ctx context.Context, user, password, database string) (*pgx.Conn, error) {
	if n.addr() == "" {
		return nil, fmt.Errorf("%s has no address", n.name)
	}
	return pgx.Connect(ctx, fmt.Sprintf("postgres://%s:%s@%s/%s?sslmode=disable", user, password, n.addr(), database))
}

// get asks Patroni.
func (n *patroniNode) get(ctx context.Context, path string, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s:8008/%s", n.addr(), path), nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	return json.NewDecoder(response.Body).Decode(answer)
}

// switchOver makes another node the leader. Patroni refuses that until it has
// found that there is a node which may be.
func (n *patroniNode) switchOver() error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		out, err := n.exec("postgres", "patronictl", "-c", "/tmp/patroni.yml", "switchover", "herd", "--leader", n.name, "--force")
		if strings.Contains(out, "Successfully switched over") {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("patronictl switchover: %v: %s", err, out)
		}
	}
}

// kill ends all that runs in the container, and start starts it again.
func (n *patroniNode) kill() error {
	if err := n.cluster.docker.Client.KillContainer(dc.KillContainerOptions{ID: n.id, Signal: dc.SIGKILL}); err != nil {
		return err
	}
	return n.lookUp()
}

func (n *patroniNode) start() error {
	if err := n.cluster.docker.Client.StartContainer(n.id, nil); err != nil {
		return err
	}
	return n.lookUp()
}

// crash ends PostgreSQL, and leaves Patroni running.
func (n *patroniNode) crash() error {
	return n.root(`kill -KILL "$(head -n 1 /var/lib/postgresql/data/` + n.name + `/postmaster.pid)"`)
}

// drop has the node drop all packets from and to others, without a word, or those
// alone that filters match, and heal ends that.
func (n *patroniNode) drop(in, out string) error {
	return n.root(`iptables -I INPUT ` + in + ` -j DROP && iptables -I OUTPUT ` + out + ` -j DROP`)
}

func (n *patroniNode) heal() error { return n.root("iptables -F INPUT && iptables -F OUTPUT") }

// root runs a shell command as root.
func (n *patroniNode) root(command string) error {
	if out, err := n.exec("root", "sh", "-c", command); err != nil {
		return fmt.Errorf("%s: %w: %s", command, err, out)
	}
	return nil
}

// unplug takes the container's network away, and plug gives it back, with
// another address perhaps.
func (n *patroniNode) unplug() error {
	if err := n.cluster.docker.Client.DisconnectNetwork(n.cluster.network.Network.ID, dc.NetworkConnectionOptions{Container: n.id}); err != nil {
		return err
	}
	return n.lookUp()
}

func (n *patroniNode) plug() error {
	if err := n.cluster.docker.Client.ConnectNetwork(n.cluster.network.Network.ID, dc.NetworkConnectionOptions{
		Container:      n.id,
		EndpointConfig: &dc.EndpointConfig{Aliases: []string{n.name}},
	}); err != nil {
		return err
	}
	return n.lookUp()
}

// log returns what Patroni and PostgreSQL said.
func (n *patroniNode) log() (string, error) {
	var out bytes.Buffer
	err := n.cluster.docker.Client.Logs(dc.LogsOptions{Container: n.id, OutputStream: &out, ErrorStream: &out, Stdout: true, Stderr: true, Timestamps: true})
	return out.String(), err
}

// keepLog keeps the log of a failed test.
func (n *patroniNode) keepLog(t *testing.T) {
	if !t.Failed() {
		return
	}
	log, err := n.log()
	if err == nil {
		err = os.WriteFile(filepath.Join(t.ArtifactDir(), n.name+".log"), []byte(log), 0o666)
	}
	if err != nil {
		t.Error(err)
	}
}
