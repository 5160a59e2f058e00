package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"gopkg.in/yaml.v3"

	"github.com/pgherd/pgherd"
	"github.com/pgherd/pgherd/metrics"
)

// deploy is where the files are that these tests hold to the code.
const deploy = "../deploy"

func readDeployed(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(deploy, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// exported are the metrics that a collector has, with their labels.
func exported(t *testing.T) map[string][]string {
	t.Helper()
	cfg, err := pgherd.ParseDSN("postgres://u@h/d")
	if err != nil {
		t.Fatal(err)
	}
	c, err := pgherd.NewConnector(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	ch := make(chan *prometheus.Desc, 1000)
	metrics.New(c, "shop").Describe(ch)
	close(ch)
	described := regexp.MustCompile(`fqName: "([a-z_]+)".*variableLabels: \{([a-z_,]*)\}`)
	names := make(map[string][]string)
	for d := range ch {
		m := described.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("cannot read %s", d)
		}
		names[m[1]] = append(strings.Split(m[2], ","), "db")
	}
	return names
}

// What a query of Prometheus names.
var (
	queryMetric = regexp.MustCompile(`\bpgherd_[a-z_]+`)
	queryLabels = regexp.MustCompile(`(pgherd_[a-z_]+)\{([^}]*)\}`)
	queryLabel  = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"`)
	queryBy     = regexp.MustCompile(`\bby \(([a-z_, ]+)\)`)
)

// checkQuery reports what a query names and a collector does not export.
func checkQuery(t *testing.T, where, query string, exported map[string][]string) {
	t.Helper()
	base := func(metric string) string {
		if exported[metric] == nil {
			for _, suffix := range []string{"_bucket", "_count", "_sum"} {
				metric = strings.TrimSuffix(metric, suffix)
			}
		}
		return metric
	}
	labels := map[string]bool{"instance": true, "le": true} // of Prometheus
	for _, m := range queryMetric.FindAllString(query, -1) {
		if exported[base(m)] == nil {
			t.Errorf("%s: there is no metric %s", where, m)
		}
		for _, l := range exported[base(m)] {
			labels[l] = true
		}
	}
	for _, m := range queryLabels.FindAllStringSubmatch(query, -1) {
		for _, l := range queryLabel.FindAllStringSubmatch(m[2], -1) {
			if l[1] != "instance" && !slices.Contains(exported[base(m[1])], l[1]) {
				t.Errorf("%s: %s has no label %s", where, m[1], l[1])
			}
		}
	}
	for _, m := range queryBy.FindAllStringSubmatch(query, -1) {
		for l := range strings.SplitSeq(m[1], ",") {
			if !labels[strings.TrimSpace(l)] {
				t.Errorf("%s: by (%s), which nothing in the query has", where, l)
			}
		}
	}
}

// A dashboardQuery is one that Grafana sends for the dashboard.
type dashboardQuery struct {
	Name   string // of the panel, or the annotation
	Expr   string
	Legend string
}

func dashboardQueries(t *testing.T) (queries []dashboardQuery) {
	t.Helper()
	var dashboard struct {
		Annotations struct{ List []struct{ Name, Expr string } }
		Panels      []struct {
			Title   string
			Targets []struct{ Expr, LegendFormat string }
		}
	}
	if err := json.Unmarshal(readDeployed(t, "grafana/provisioning/dashboards/pgherd.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, p := range dashboard.Panels {
		for _, q := range p.Targets {
			queries = append(queries, dashboardQuery{p.Title, q.Expr, q.LegendFormat})
		}
	}
	for _, a := range dashboard.Annotations.List {
		queries = append(queries, dashboardQuery{Name: a.Name, Expr: a.Expr})
	}
	if len(queries) < 15 {
		t.Errorf("%d queries", len(queries))
	}
	return queries
}

// The dashboard asks for what is exported.
func TestDashboard(t *testing.T) {
	names := exported(t)
	for _, q := range dashboardQueries(t) {
		checkQuery(t, q.Name, q.Expr, names)
		for _, l := range regexp.MustCompile(`\{\{(\w+)\}\}`).FindAllStringSubmatch(q.Legend, -1) {
			if !regexp.MustCompile(`by \([a-z_, ]*\b` + l[1] + `\b`).MatchString(q.Expr) {
				t.Errorf("%s: the legend has %s, which the query drops", q.Name, l[1])
			}
		}
	}
}

type alertRule struct{ Alert, Expr string }

func deployedAlerts(t *testing.T) (rules []alertRule) {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []alertRule }
	}
	if err := yaml.Unmarshal(readDeployed(t, "prometheus/alerts.yml"), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		rules = append(rules, g.Rules...)
	}
	if len(rules) == 0 {
		t.Error("there are no alerts")
	}
	return rules
}

// The alerts ask for what is exported, and fire when they should.
func TestAlerts(t *testing.T) {
	tested := string(readDeployed(t, "prometheus/alerts_test.yml"))
	names := exported(t)
	for _, r := range deployedAlerts(t) {
		checkQuery(t, r.Alert, r.Expr, names)
		if !regexp.MustCompile(`- alertname: ` + r.Alert + `\n\s+eval_time: .*\n\s+exp_alerts:\n\s+- exp_labels`).MatchString(tested) {
			t.Errorf("no test sees %s fire", r.Alert)
		}
	}
	for _, args := range [][]string{{"check", "config", "prometheus.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.CommandContext(t.Context(), "promtool", args...)
		cmd.Dir = filepath.Join(deploy, "prometheus")
		out, err := cmd.CombinedOutput()
		if errors.Is(err, exec.ErrNotFound) && os.Getenv("PGHERD_TEST_REQUIRE") == "" {
			t.Skip("promtool, of Prometheus, is not installed")
		}
		if err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// checkEnvironment has ConfigFromEnv read the PG_* variables that a deployment sets.
func checkEnvironment(t *testing.T, where string, env map[string]string) {
	t.Helper()
	known := regexp.MustCompile(`\bPG_[A-Z_]+\b`).FindAllString(string(readDeployed(t, "../env.go")), -1)
	for name, value := range env {
		if !slices.Contains(known, name) {
			t.Errorf("%s: nothing reads %s", where, name)
		}
		if name == "PG_SSLROOTCERT" || name == "PG_PASSWORD_FILE" {
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			value = path
		}
		t.Setenv(name, value)
	}
	if _, err := pgherd.ConfigFromEnv(); err != nil {
		t.Errorf("%s: %v", where, err)
	}
	for name := range env {
		os.Unsetenv(name) // t.Setenv takes it back in the end
	}
}

type composeService struct {
	Image       string
	Build       *struct{ Context, Dockerfile string }
	Environment map[string]string
	Entrypoint  []string
	Volumes     []string
}

// The Compose file is one, mounts what exists, and sets variables that are read.
func TestCompose(t *testing.T) {
	var compose struct {
		Services map[string]composeService
		Volumes  map[string]any
	}
	if err := yaml.Unmarshal(readDeployed(t, "compose/compose.yaml"), &compose); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"primary", "replica1", "replica2", "app", "prometheus", "grafana"} {
		if _, ok := compose.Services[name]; !ok {
			t.Errorf("there is no %s", name)
		}
	}
	for name, s := range compose.Services {
		if !strings.Contains(s.Image, "${PGHERD_") || s.Build == nil && !regexp.MustCompile(`:-[^:]+:v?\d[\w.]*\}$`).MatchString(s.Image) {
			t.Errorf("%s: the image %s cannot be replaced, or has no version", name, s.Image)
		}
		mounted := make(map[string]bool)
		for _, v := range s.Volumes {
			from, rest, _ := strings.Cut(v, ":")
			to, _, _ := strings.Cut(rest, ":")
			mounted[to] = true
			if _, named := compose.Volumes[from]; named {
				continue
			}
			if _, err := os.Stat(filepath.Join(deploy, "compose", from)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if s.Entrypoint != nil && !mounted[s.Entrypoint[1]] {
			t.Errorf("%s: nothing is mounted at %s", name, s.Entrypoint[1])
		}
		if s.Build != nil {
			root := filepath.Join(deploy, "compose", s.Build.Context)
			file, err := os.ReadFile(filepath.Join(root, s.Build.Dockerfile))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			program := regexp.MustCompile(`(?m)^RUN .*go build .* (\./\S+)$`).FindSubmatch(file)
			if program == nil {
				t.Fatalf("%s: its Dockerfile builds nothing", name)
			}
			if _, err := os.Stat(filepath.Join(root, string(program[1]), "main.go")); err != nil {
				t.Errorf("%s: what its Dockerfile builds: %v", name, err)
			}
		}
	}
	checkEnvironment(t, "app", compose.Services["app"].Environment)

	// Where there is Docker's own reader, it has to agree.
	for _, command := range [][]string{{"docker", "compose"}, {"docker-compose"}} {
		if exec.Command(command[0], append(command[1:], "version")...).Run() != nil {
			continue
		}
		cmd := exec.CommandContext(t.Context(), command[0], append(command[1:], "-f", "compose.yaml", "config", "-q")...)
		cmd.Dir, cmd.Env = filepath.Join(deploy, "compose"), append(os.Environ(), "POSTGRES_PASSWORD=x")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", strings.Join(command, " "), err, out)
		}
	}
	scripts, err := filepath.Glob(filepath.Join(deploy, "compose", "*.sh"))
	if err != nil || len(scripts) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, s := range scripts {
		if out, err := exec.CommandContext(t.Context(), "bash", "-n", s).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", s, err, out)
		}
	}
}

// The manifests set variables that are read, mount what they name, and do not put
// secrets into the environment.
func TestKubernetes(t *testing.T) {
	type container struct {
		Args []string
		Env  []struct {
			Name, Value string
		}
		LivenessProbe, ReadinessProbe struct{ HTTPGet struct{ Path string } }
		VolumeMounts                  []struct{ Name, MountPath string }
	}
	var kinds []string
	for _, file := range []string{"cluster.yaml", "app.yaml"} {
		d := yaml.NewDecoder(bytes.NewReader(readDeployed(t, "kubernetes/"+file)))
		for {
			var doc struct {
				APIVersion string `yaml:"apiVersion"`
				Kind       string
				Metadata   struct{ Name string }
				Spec       struct {
					Template struct {
						Spec struct {
							EnableServiceLinks *bool `yaml:"enableServiceLinks"`
							Containers         []yaml.Node
							Volumes            []struct{ Name string }
						}
					}
				}
			}
			if err := d.Decode(&doc); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			if doc.APIVersion == "" || doc.Kind == "" || doc.Metadata.Name == "" {
				t.Errorf("%s: %+v", file, doc)
			}
			kinds = append(kinds, doc.Kind)
			pod := doc.Spec.Template.Spec
			for _, node := range pod.Containers {
				var c container
				// encoding/json matches names in whatever case.
				var generic any
				if err := node.Decode(&generic); err != nil {
					t.Fatal(err)
				}
				b, err := json.Marshal(generic)
				if err == nil {
					err = json.Unmarshal(b, &c)
				}
				if err != nil {
					t.Fatal(err)
				}
				env := make(map[string]string)
				for _, e := range c.Env {
					env[e.Name] = e.Value
				}
				if env["PG_PASSWORD"] != "" || env["PG_SSLMODE"] != "verify-full" || pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
					t.Error("the password is in the environment, the servers are not verified, or service links get in the way")
				}
				for _, name := range []string{"PG_PASSWORD_FILE", "PG_SSLROOTCERT"} {
					if !slices.ContainsFunc(c.VolumeMounts, func(m struct{ Name, MountPath string }) bool {
						return strings.HasPrefix(env[name], m.MountPath+"/")
					}) {
						t.Errorf("nothing is mounted where %s is", name)
					}
				}
				for _, m := range c.VolumeMounts {
					if !slices.ContainsFunc(pod.Volumes, func(v struct{ Name string }) bool { return v.Name == m.Name }) {
						t.Errorf("there is no volume %s", m.Name)
					}
				}
				if c.LivenessProbe.HTTPGet.Path != "/livez" || c.ReadinessProbe.HTTPGet.Path != "/readyz" {
					t.Errorf("probes of %s and %s", c.LivenessProbe.HTTPGet.Path, c.ReadinessProbe.HTTPGet.Path)
				}
				checkEnvironment(t, doc.Metadata.Name, env)
			}
		}
	}
	want := []string{"Cluster", "Deployment", "PodDisruptionBudget", "Service"}
	if got := slices.Compact(slices.Sorted(slices.Values(kinds))); !slices.Equal(got, want) {
		t.Errorf("kinds %v, want %v", got, want)
	}
}
