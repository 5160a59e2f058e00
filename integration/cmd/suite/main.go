// Suite runs the tests that need servers on every backend and version that there
// is here, and prints a table of what passed:
//
//	go run ./integration/cmd/suite                        # all of it: make integration
//	go run ./integration/cmd/suite -only 'conform|copy' -backends containers -images postgres:16
//
// Backends are the programs of this machine (the directory that PGHERD_TEST_PGBIN
// names) and containers, of each image. It must be run in the root of the
// repository. It fails if anything fails, and if a suite does not run: one that
// is skipped has not passed.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/pgherd/pgherd/integration/herds/containers"
)

// A suite is some tests.
type suite struct {
	name      string
	packages  []string // relative to the root
	run, skip string   // patterns of go test; empty for all, and for none
	network   bool     // runs in containers only
	short     bool     // runs when there is little time
}

const (
	root        = "."
	integration = "./integration"
)

var suites = []suite{
	{name: "conformance", packages: []string{root}, run: "TestConformance$"},
	{name: "routing", packages: []string{root}, run: "TestReadsAndWritesAreSplit|TestMisroute|TestRefusals|TestUnresolvedRunsOnce|TestSerializableIsThePrimarys",
		// It needs a locale but C that gettext translates for, and an image may have none.
		skip: "TestRefusals/de", short: true},
	{name: "sessions", packages: []string{root}, run: "TestReadYourWrites|TestContextSession|TestSessionState|TestReadsAfterTransaction|TestRefusedToken|TestTokenOfLostTimeline|TestStaleReplicaIsNotRead|TestSessionOutlives|TestSessionSees"},
	{name: "failover", packages: []string{root}, run: "TestReplicaDies|TestReplicaFreezes|TestPrimaryRestarts|TestPromotedReplica|TestReplacedPrimary|TestDemotedPrimary|TestNoServer|TestWriterWaitsForPromotion|TestReadsLeaveFrozenPrimary|TestInTxFailover"},
	{name: "LISTEN", packages: []string{root}, run: "TestListen$|TestNotify|TestSlowSubscriber|TestListenOnMembers|TestListenerIsRefused|TestSubscriptionsComeAndGo"},
	{name: "COPY", packages: []string{root}, run: "TestCopy|TestFailedCopy|TestRefusedCopyOut|TestCancelledCopies|TestBatchInsert|TestFailedBatchInsert"},
	{name: "sqlx", packages: []string{root}, run: "TestSqlx", short: true},
	{name: "libraries", packages: []string{integration}, skip: "TestChaos$|TestDetection$|TestSilent|TestCheck|TestSchedule|Patroni|TestDeploy|TestScrape|" + networkTests},
	{name: "silent statements", packages: []string{integration}, run: "TestSilent"},
	{name: "detection", packages: []string{integration}, run: "TestDetection$"},
	{name: "chaos", packages: []string{integration}, run: "TestChaos$"},
	{name: "machines", packages: []string{integration + "/herds/containers"}, network: true},
	{name: "network faults", packages: []string{integration}, run: networkTests, network: true},
}

const networkTests = "TestReplicaIsCutFromPrimary|TestApplicationIsCutFromPrimary|TestAsymmetricLoss|TestDelay|TestBlackHole"

// A backend is what herds run in.
type backend struct {
	name, version string
	env           []string
	containers    bool
}

// A result is that of a suite on a backend.
type result struct {
	suite, backend, version string
	passed, failed, skipped int
	took                    time.Duration
	err                     error
}

func main() {
	only := flag.String("only", "", "run suites whose names match this `pattern`")
	wanted := flag.String("backends", "local,containers", "")
	images := flag.String("images", "pgherd-postgres:15,pgherd-postgres:17", "images of the containers")
	short := flag.Bool("short", false, "run what takes a few minutes, in containers of one image, which is made if need be; nothing where no Docker engine answers")
	flag.Parse()
	if *short {
		if reason := cannot(); reason != nil {
			fmt.Fprintf(os.Stderr, "suite: nothing runs in containers: %v\n", reason)
			return
		}
		*wanted, *images = "containers", "pgherd-postgres:15"
		build := exec.Command(integration+"/images/build", "bookworm", *images)
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fatal(fmt.Errorf("make %s: %w", *images, err))
		}
	}
	pattern, err := regexp.Compile(*only)
	if err != nil {
		fatal(err)
	}
	dir, err := os.MkdirTemp("", "pgherd-suite-")
	if err != nil {
		fatal(err)
	}
	backends, err := find(strings.Split(*wanted, ","), strings.Split(*images, ","), filepath.Join(dir, "herd"))
	if err != nil {
		os.RemoveAll(dir)
		fatal(err)
	}
	var results []result
	for _, b := range backends {
		for _, s := range suites {
			if pattern.MatchString(s.name) && (!s.network || b.containers) && (s.short || !*short) {
				r := run(s, b)
				results = append(results, r)
				fmt.Fprintf(os.Stderr, "%s %s, %s: %s in %v\n", b.name, b.version, s.name, r.verdict(), r.took)
			}
		}
	}
	os.RemoveAll(dir)
	if !report(os.Stdout, results) {
		os.Exit(1)
	}
}

// cannot tells why -short runs nothing, if so.
func cannot() error {
	os.Setenv("PGHERD_TEST_IMAGE", "pgherd-postgres:15")
	_, err := containers.Image()
	if err == nil || errors.Is(err, containers.ErrNoDocker) {
		return err
	}
	if os.Getuid() != 0 {
		return errors.New("its image is not there, and only root can make it: sudo make images")
	}
	return nil
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "suite:", err)
	os.Exit(1)
}

// find returns what there is here of the backends that are wanted, and builds herd, the
// program that runs herds in containers for tests that know nothing of them.
func find(wanted, images []string, herd string) (backends []backend, err error) {
	for _, name := range wanted {
		switch name {
		case "local":
			program := filepath.Join(os.Getenv("PGHERD_TEST_PGBIN"), "postgres")
			version, err := versionOf(program, "--version")
			if err != nil {
				return nil, fmt.Errorf("PGHERD_TEST_PGBIN: %w", err)
			}
			backends = append(backends, backend{name: name, version: version, env: []string{"PGHERD_TEST_BACKEND=local"}})
		case "containers":
			build := exec.Command("go", "build", "-o", herd, integration+"/cmd/herd")
			if out, err := build.CombinedOutput(); err != nil {
				return nil, fmt.Errorf("build the program that runs herds: %w\n%s", err, out)
			}
			for _, image := range images {
				os.Setenv("PGHERD_TEST_IMAGE", image)
				if _, err := containers.Image(); err != nil {
					return nil, err
				}
				version, err := versionOf("docker", "run", "--rm", "--entrypoint", "postgres", image, "--version")
				if err != nil {
					return nil, err
				}
				env := []string{"PGHERD_TEST_BACKEND=containers", "PGHERD_TEST_IMAGE=" + image, "PGHERD_TEST_HERDS=" + herd}
				backends = append(backends, backend{name: name, version: version, env: env, containers: true})
			}
		default:
			return nil, fmt.Errorf("there is no backend %q", name)
		}
	}
	return backends, nil
}

// versionOf returns what a command that prints the version of PostgreSQL says.
func versionOf(command string, args ...string) (string, error) {
	out, err := exec.Command(command, args...).CombinedOutput()
	version := regexp.MustCompile(`\(PostgreSQL\) (\S+)`).FindSubmatch(out)
	if err != nil || version == nil {
		return "", fmt.Errorf("%s %s: %v\n%s", command, strings.Join(args, " "), err, out)
	}
	return string(version[1]), nil
}

// run runs a suite. What failed tests print goes to standard error.
func run(s suite, b backend) result {
	r := result{suite: s.name, backend: b.name, version: b.version}
	args := []string{"test", "-json", "-count", "1", "-p", "1", "-vet=off", "-timeout", "30m"}
	if b.containers {
		args = append(args, "-parallel", "2") // a herd takes its time to start there, and memory
	}
	if s.run != "" {
		args = append(args, "-run", s.run)
	}
	if s.skip != "" {
		args = append(args, "-skip", s.skip)
	}
	cmd := exec.Command("go", append(args, s.packages...)...)
	cmd.Env = append(append(os.Environ(), "PGHERD_TEST_REQUIRE=1"), b.env...)
	cmd.Stderr = os.Stderr
	begun := time.Now()
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		r.err = err
		return r
	}
	outcomes, output := read(out)
	r.err = cmd.Wait()
	r.took = time.Since(begun).Round(time.Second)
	for test, outcome := range outcomes {
		if hasParts(test, outcomes) {
			continue // its parts count
		}
		switch outcome {
		case "pass":
			r.passed++
		case "skip":
			r.skipped++
		default: // a test that did not end has none
			r.failed++
		}
	}
	if r.err == nil && r.passed == 0 {
		r.err = fmt.Errorf("nothing ran")
	}
	if r.err != nil {
		fmt.Fprintf(os.Stderr, "--- %s %s, %s: %v\n%s", b.name, b.version, s.name, r.err, output)
	}
	return r
}

// read returns how tests ended, by their names, and what those that did not pass
// have printed.
func read(events io.Reader) (outcomes map[string]string, failures string) {
	outcomes = make(map[string]string)
	printed := make(map[string]*strings.Builder)
	lines := bufio.NewScanner(events)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e struct{ Action, Package, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			continue // what is not of a test goes to standard error
		}
		name := e.Package + " " + e.Test
		switch e.Action {
		case "output", "build-output":
			if printed[name] == nil {
				printed[name] = new(strings.Builder)
			}
			printed[name].WriteString(e.Output)
		case "run":
			outcomes[name] = ""
		case "pass", "skip", "fail":
			if e.Test != "" {
				outcomes[name] = e.Action
			}
			if e.Action != "fail" {
				delete(printed, name)
			}
		}
	}
	var b strings.Builder
	for _, text := range printed {
		b.WriteString(text.String())
	}
	return outcomes, b.String()
}

func hasParts(test string, all map[string]string) bool {
	for other := range all {
		if strings.HasPrefix(other, test+"/") {
			return true
		}
	}
	return false
}

func (r result) ok() bool { return r.err == nil && r.failed == 0 }

func (r result) verdict() string {
	text := fmt.Sprint(r.passed)
	if r.failed > 0 {
		text += fmt.Sprintf(", %d FAILED", r.failed)
	} else if r.err != nil {
		text += fmt.Sprintf(", FAILED: %v", r.err)
	}
	if r.skipped > 0 {
		text += fmt.Sprintf(", %d skipped", r.skipped)
	}
	return text
}

// report prints the table and reports whether all is well.
func report(w io.Writer, results []result) (ok bool) {
	ok = len(results) > 0
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "backend\tversion\tsuite\tpassed\ttime")
	for _, r := range results {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%v\n", r.backend, r.version, r.suite, r.verdict(), r.took)
		ok = ok && r.ok()
	}
	table.Flush()
	if !ok {
		fmt.Fprintln(w, "FAILED")
	}
	return ok
}
