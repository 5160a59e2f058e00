package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/pgherd/pgherd/replay"
)

func replayPrune(std stdio, args []string) error {
	flags := newFileFlags(std, "replay prune", "FOLDER", `Finds, in the given packages' folders, recordings that nothing needs any more: files in testdata
whose test "go test -list" does not know, and sidecars that no file refers to. It prints
them; with -w it removes them. A file that a test opens by another name than its own is
kept if -keep matches it. What a test no longer says goes when it is recorded again.`)
	write := flags.Bool("w", false, "remove what is found")
	keep := flags.String("keep", "", "keep files whose path matches this `regexp`")
	tags := flags.String("tags", "", "build `tags` under which tests are there")
	if err := parseFiles(flags, args); err != nil {
		return err
	}
	kept := func(string) bool { return false }
	if *keep != "" {
		re, err := regexp.Compile(*keep)
		if err != nil {
			return err
		}
		kept = func(path string) bool { return re.MatchString(filepath.ToSlash(path)) }
	}
	for _, dir := range flags.Args() {
		fixtures, sidecars, err := recordings(filepath.Join(dir, "testdata"))
		if err != nil {
			return err
		}
		if len(fixtures)+len(sidecars) == 0 {
			continue
		}
		tests, err := testsOf(dir, *tags)
		if err != nil {
			return err
		}
		var gone []string
		needed := make(map[string]bool)
		for _, path := range fixtures {
			if !tests[testOf(dir, path)] && !kept(path) {
				gone = append(gone, path)
				continue
			}
			f, err := replay.Read(path)
			if err != nil {
				return err
			}
			_, files, err := f.Format()
			if err != nil {
				return err
			}
			for name := range files {
				needed[filepath.Join(strings.TrimSuffix(path, replay.Suffix), name)] = true
			}
		}
		for _, path := range sidecars {
			if !needed[path] && !kept(path) {
				gone = append(gone, path)
			}
		}
		slices.Sort(gone)
		for _, path := range gone {
			fmt.Fprintln(std.out, filepath.ToSlash(path))
			if !*write {
				continue
			}
			if err := os.Remove(path); err != nil {
				return err
			}
			os.Remove(filepath.Dir(path)) // if it is empty now
		}
	}
	return nil
}

var sidecarName = regexp.MustCompile(`^[0-9a-f]{64}\.bin$`)

// recordings returns the fixtures and the sidecars below a folder.
func recordings(dir string) (fixtures, sidecars []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil || d.IsDir():
			return err
		case strings.HasSuffix(path, replay.Suffix):
			fixtures = append(fixtures, path)
		case sidecarName.MatchString(d.Name()):
			sidecars = append(sidecars, path)
		}
		return nil
	})
	return fixtures, sidecars, err
}

// testOf returns the test that a fixture is of: the part of its path that is the
// name of the function.
func testOf(dir, path string) string {
	rel, err := filepath.Rel(filepath.Join(dir, "testdata"), path)
	if err != nil {
		return ""
	}
	name, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
	return strings.TrimSuffix(name, replay.Suffix)
}

// testsOf returns the names of the tests of the package in dir.
func testsOf(dir, tags string) (map[string]bool, error) {
	cmd := exec.Command("go", "test", "-list", ".", "-tags="+tags, ".")
	cmd.Dir = dir
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("the tests of %s: %w\n%s%s", dir, err, errs.String(), out.String())
	}
	tests := make(map[string]bool)
	for _, line := range strings.Split(out.String(), "\n") {
		if name := strings.TrimSpace(line); name != "" && !strings.Contains(name, " ") && !strings.Contains(name, "\t") {
			tests[name] = true
		}
	}
	return tests, nil
}
