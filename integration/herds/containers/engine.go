package containers

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ory/dockertest/v3"
	"github.com/ory/dockertest/v3/docker"
)

// ErrNoDocker is the error of [Open], by errors.Is, where no Docker engine
// answers.
var ErrNoDocker = errors.New("containers: no Docker engine answers: start one, or see DOCKER_HOST")

// The labels of all that is made here: the process that owns it, and the machine
// and boot that this process runs on.
const (
	ownerLabel = "pgherd.test.owner"
	bootLabel  = "pgherd.test.boot"
)

// connectEngine returns a client of the Docker engine.
func connectEngine() (*docker.Client, error) {
	pool, err := dockertest.NewPool("")
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrNoDocker, err)
	}
	if err := pool.Client.Ping(); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrNoDocker, err)
	}
	return pool.Client, nil
}

// Image returns the image that [Open] uses, and has it in the engine: see
// Images in the package comment.
func Image() (string, error) {
	client, err := connectEngine()
	if err != nil {
		return "", err
	}
	return image(client)
}

func image(client *docker.Client) (string, error) {
	const official = "postgres:17"
	candidates := []string{official, "pgherd-postgres:17", "pgherd-postgres:15"}
	if name := os.Getenv("PGHERD_TEST_IMAGE"); name != "" {
		candidates = []string{name}
	}
	for _, name := range candidates {
		if _, err := client.InspectImage(name); err == nil {
			return name, nil
		}
	}
	repository, tag := docker.ParseRepositoryTag(candidates[0])
	if tag == "" {
		tag = "latest"
	}
	err := client.PullImage(docker.PullImageOptions{Repository: repository, Tag: tag, InactivityTimeout: time.Minute}, docker.AuthConfiguration{})
	if err != nil {
		return "", fmt.Errorf(`containers: pull %s (where no registry can be reached, "make images" makes an image): %w`, candidates[0], err)
	}
	return candidates[0], nil
}

// Labels returns those of what this process makes in an engine, by which [Reap] knows
// it. The map is the caller's.
func Labels() map[string]string {
	pid := os.Getpid()
	return map[string]string{
		ownerLabel: fmt.Sprintf("%d/%s", pid, startTime(pid)),
		bootLabel:  bootID(),
	}
}

// bootID tells machines, and what one of them ran before it was last booted, apart.
func bootID() string {
	host, _ := os.Hostname()
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return host + "/" + strings.TrimSpace(string(id))
}

// startTime returns when a process began, in ticks since the boot, or nothing if it
// is no more. It tells processes that had the same id apart.
func startTime(pid int) string {
	stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	// The second field is a name in parentheses, and may have more of them.
	_, rest, _ := strings.Cut(string(stat[strings.LastIndexByte(string(stat), ')')+1:]), " ")
	fields := strings.Fields(rest)
	if len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// abandoned reports whether labels are those of a process of this machine that is
// no more. What another machine owns, in an engine that is shared, is its own.
func abandoned(labels map[string]string) bool {
	theirs, ours := labels[bootLabel], bootID()
	host, _, _ := strings.Cut(ours, "/")
	if theirs != ours {
		return strings.HasPrefix(theirs, host+"/") // from before the last boot
	}
	id, started, _ := strings.Cut(labels[ownerLabel], "/")
	pid, err := strconv.Atoi(id)
	return err == nil && startTime(pid) != started
}

// Reap removes the containers and networks with [Labels] that processes have left
// behind which ended without doing so. It may run in many processes at a time.
func Reap(client *docker.Client) error {
	made, err := client.ListContainers(docker.ListContainersOptions{All: true, Filters: map[string][]string{"label": {ownerLabel}}})
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range made {
		if abandoned(c.Labels) {
			errs = append(errs, Remove(client, c.ID))
		}
	}
	networks, err := client.FilteredListNetworks(docker.NetworkFilterOpts{"label": {ownerLabel: true}})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, n := range networks {
		if abandoned(n.Labels) {
			errs = append(errs, removeNetwork(client, n.ID))
		}
	}
	return errors.Join(errs...)
}

// Remove removes a container with its data, running, paused or not. One that is
// gone, as another process may have reaped it, is no error.
func Remove(client *docker.Client, id string) error {
	client.UnpauseContainer(id) // else an engine may refuse to end it
	err := client.RemoveContainer(docker.RemoveContainerOptions{ID: id, Force: true, RemoveVolumes: true})
	var gone *docker.NoSuchContainer
	if errors.As(err, &gone) || err != nil && strings.Contains(err.Error(), "already in progress") {
		return nil
	}
	return err
}

func removeNetwork(client *docker.Client, id string) error {
	err := client.RemoveNetwork(id)
	var gone *docker.NoSuchNetwork
	if errors.As(err, &gone) {
		return nil
	}
	return err
}

// createNetwork returns a network of which the subnet is its own, so that servers
// keep their addresses when they stop and start, and its gateway: the address of
// this machine. The engine has to be told a subnet for that; it is asked for one
// that is free first.
func createNetwork(client *docker.Client, name string) (id string, subnet netip.Prefix, gateway netip.Addr, err error) {
	for range 5 {
		var n *docker.Network
		n, err = client.CreateNetwork(docker.CreateNetworkOptions{Name: name, Driver: "bridge", Labels: Labels()})
		if err != nil {
			break
		}
		n, err = client.NetworkInfo(n.ID)
		if err != nil {
			break
		}
		free := n.IPAM.Config[0]
		if err = client.RemoveNetwork(n.ID); err != nil {
			break
		}
		subnet, err = netip.ParsePrefix(free.Subnet)
		if err != nil {
			break
		}
		gateway = subnet.Masked().Addr().Next()
		n, err = client.CreateNetwork(docker.CreateNetworkOptions{Name: name, Driver: "bridge", Labels: Labels(), IPAM: &docker.IPAMOptions{
			Config: []docker.IPAMConfig{{Subnet: subnet.String(), Gateway: gateway.String()}},
		}})
		if err == nil {
			return n.ID, subnet, gateway, nil
		}
		// Somebody else took it in the meantime.
	}
	return "", subnet, gateway, fmt.Errorf("containers: create a network: %w", err)
}
