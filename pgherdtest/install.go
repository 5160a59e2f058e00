package pgherdtest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ErrNoPostgres is the error where no PostgreSQL server is installed.
var ErrNoPostgres = errors.New("no PostgreSQL server found")

// An installation is where the programs of PostgreSQL are.
type installation struct {
	bin     string // directory, symbolic links resolved
	version string // what postgres --version prints
	user    *user  // whom the programs run as; nil for the user of this process
}

// A user is whom root becomes, since PostgreSQL refuses to be root.
type user struct{ uid, gid int }

// findInstallation looks for programs that run here.
func findInstallation(ctx context.Context) (*installation, error) {
	if runtime.GOOS == "windows" {
		return nil, fmt.Errorf("pgherdtest: %w: Windows is not supported", ErrNoPostgres)
	}
	user, err := serverUser()
	if err != nil {
		return nil, fmt.Errorf("pgherdtest: %w", err)
	}
	named := os.Getenv("PGHERD_TEST_PGBIN")
	dirs := []string{named}
	if named == "" {
		dirs = candidates(ctx)
	}
	for _, dir := range dirs {
		bin, ok := binDir(dir)
		if !ok {
			continue
		}
		version, err := exec.CommandContext(ctx, filepath.Join(bin, "postgres"), "--version").Output()
		if err != nil {
			return nil, fmt.Errorf("pgherdtest: ask %s for its version: %w", bin, err)
		}
		return &installation{bin: bin, version: strings.TrimSpace(string(version)), user: user}, nil
	}
	if named != "" {
		return nil, fmt.Errorf("pgherdtest: %w: PGHERD_TEST_PGBIN=%s has no initdb and postgres", ErrNoPostgres, named)
	}
	return nil, fmt.Errorf("pgherdtest: %w: install it (apt install postgresql, dnf install postgresql-server, "+
		"brew install postgresql@17) or name the directory of initdb in PGHERD_TEST_PGBIN", ErrNoPostgres)
}

// candidates lists directories that may hold initdb and postgres, the best
// first.
func candidates(ctx context.Context) []string {
	var dirs []string
	for _, program := range []string{"postgres", "initdb"} {
		if path, err := exec.LookPath(program); err == nil {
			// A distribution may link one of them into PATH and keep the other
			// beside the first's target.
			if real, err := filepath.EvalSymlinks(path); err == nil {
				dirs = append(dirs, filepath.Dir(real))
			}
		}
	}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",         // Debian, Alpine
		"/usr/pgsql-*/bin",                  // PGDG on Red Hat
		"/opt/homebrew/opt/postgresql*/bin", // Homebrew on Apple silicon
		"/usr/local/opt/postgresql*/bin",    // Homebrew on Intel
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		found, _ := filepath.Glob(pattern)
		slices.SortFunc(found, func(a, b string) int { return cmp.Compare(majorVersion(b), majorVersion(a)) })
		dirs = append(dirs, found...)
	}
	return append(dirs, "/usr/local/pgsql/bin", "/usr/local/bin")
}

// majorVersion returns the first number in a path such as
// /usr/lib/postgresql/17/bin, and 0 where there is none.
func majorVersion(path string) int {
	start := strings.IndexAny(path, "0123456789")
	if start < 0 {
		return 0
	}
	digits := path[start:]
	if end := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		digits = digits[:end]
	}
	n, _ := strconv.Atoi(digits)
	return n
}

// binDir resolves dir and reports whether both programs are in it.
func binDir(dir string) (string, bool) {
	real, err := filepath.EvalSymlinks(filepath.Join(dir, "initdb"))
	if err != nil {
		return "", false
	}
	bin := filepath.Dir(real)
	_, err = exec.LookPath(filepath.Join(bin, "postgres"))
	return bin, err == nil
}

// command returns a command that runs one of the programs as the right user,
// with nothing of our environment that would change what it does. LANGUAGE does
// nothing by itself: it names the language that a session whose lc_messages is
// not C is spoken to in.
func (inst *installation) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(inst.bin, program), args...)
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PG") && !strings.HasPrefix(kv, "LC_") && !strings.HasPrefix(kv, "LANG=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "LC_ALL=C")
	return cmd
}

// initdbArgs decide what a new data directory is. Segments of 1 MB keep it
// small; nothing is synced, since nothing outlives the tests.
var initdbArgs = []string{"--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C", "--wal-segsize=1", "--no-sync", "--no-instructions"}

// template returns a data directory that no server ever ran on: the cached one,
// or one made here. Scratch is a directory of the caller's, which goes away.
func (inst *installation) template(ctx context.Context, starter *starter, scratch string) (string, error) {
	fresh := filepath.Join(scratch, "template")
	cache, err := os.UserCacheDir()
	if err == nil {
		cache = filepath.Join(cache, "pgherdtest")
		err = os.MkdirAll(cache, 0o700)
	}
	if err != nil { // a build sandbox without a home
		return fresh, inst.initdb(ctx, starter, fresh)
	}

	key := sha256.Sum256(fmt.Append(nil, inst.bin, inst.version, initdbArgs))
	cached := filepath.Join(cache, fmt.Sprintf("%x", key[:8]))
	// One process makes it, those beside it wait: go test runs many packages.
	unlock, err := lockFile(ctx, cached+".lock")
	if err != nil {
		return "", fmt.Errorf("pgherdtest: lock the cache of initdb: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(cached); err == nil {
		return cached, nil
	}
	if err := inst.initdb(ctx, starter, fresh); err != nil {
		return "", err
	}
	// It may be another file system, so copy; the name says that it is whole.
	partial := cached + ".partial"
	if err := errors.Join(os.RemoveAll(partial), copyTree(partial, fresh, nil), os.Rename(partial, cached)); err != nil {
		return "", fmt.Errorf("pgherdtest: cache the result of initdb: %w", err)
	}
	return cached, nil
}

func (inst *installation) initdb(ctx context.Context, starter *starter, dir string) error {
	// initdb would make it, but not as another user in a directory of ours.
	if err := errors.Join(os.Mkdir(dir, 0o700), inst.user.own(dir)); err != nil {
		return fmt.Errorf("pgherdtest: initdb: %w", err)
	}
	cmd := inst.command(ctx, "initdb", append(initdbArgs, "--pgdata="+dir)...)
	if err := starter.run(cmd, inst.user); err != nil {
		return fmt.Errorf("pgherdtest: initdb: %w", err)
	}
	return nil
}

// own makes u the owner of path and of all below it.
func (u *user) own(path string) error {
	if u == nil {
		return nil
	}
	return filepath.WalkDir(path, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, u.uid, u.gid)
	})
}

// copyTree copies the data directory src to dst and gives it to u. On file
// systems that can share blocks the kernel does.
func copyTree(dst, src string, u *user) error {
	if err := os.CopyFS(dst, os.DirFS(src)); err != nil {
		return err
	}
	return errors.Join(os.Chmod(dst, 0o700), u.own(dst))
}

// lockFile locks the named file, which it makes if need be, and waits for it.
func lockFile(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := tryLock(f)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, errLocked) {
			f.Close()
			return nil, err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lockDir locks a directory. The error is errLocked where another one holds it.
func lockDir(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := tryLock(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
