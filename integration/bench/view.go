package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"docportal/integration/session"
)

const (
	viewApp    = "org.example.App"
	viewRounds = 5
	viewFiles  = 10_000
	viewLarge  = 32 << 20
	// viewTime is when no more rounds are begun of a row.
	viewTime = 4 * time.Second
	// directory is AddFull's flag for exporting a directory.
	directory = 8
)

// viewSide is a tree as one of the sides shows it. host is where it is, for
// dropping what is cached below.
type viewSide struct {
	name      string
	dir, host string
}

// viewRow is one measurement of the file view. least is how many times as fast
// as the peer it is expected to be.
type viewRow struct {
	name    string
	least   float64
	prepare func(s viewSide) error // not measured
	do      func(s viewSide) error
}

// fileViews compares the file view with the system's document portal and with
// the files themselves.
func fileViews() error {
	return in(session.Options{}, func(a *session.Session) error {
		return in(session.Options{SystemPortal: true}, func(b *session.Session) error {
			ours, err := newView(a, "docportal", true)
			if err != nil {
				return err
			}
			theirs, err := newView(b, "peer", false)
			if err != nil {
				return err
			}
			native := viewSide{name: "native", dir: filepath.Join(a.Home, "native")}
			native.host = native.dir
			if err := viewTree(native.dir); err != nil {
				return err
			}
			return compareViews(ours, theirs, native)
		})
	})
}

func newView(s *session.Session, name string, ours bool) (viewSide, error) {
	tree := filepath.Join(s.Home, "tree")
	if err := viewTree(tree); err != nil {
		return viewSide{}, err
	}
	p, err := newPortal(s, 1, ours)
	if err != nil {
		return viewSide{}, err
	}
	defer p.close()
	if _, err := p.addFull(reuse|persistent|directory, viewApp, tree); err != nil {
		return viewSide{}, err
	}
	return viewSide{name, filepath.Join(s.Runtime, "doc/by-app", viewApp, p.made, "tree"), tree}, nil
}

// viewTree makes the files to work on.
func viewTree(dir string) error {
	for _, d := range []string{"many", "some"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return err
		}
	}
	block := make([]byte, 4096)
	for i := range viewFiles {
		if err := os.WriteFile(filepath.Join(dir, "many", fmt.Sprint(i)), block[:i%4096], 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "large"), make([]byte, viewLarge), 0o600); err != nil {
		return err
	}
	git := exec.Command("/bin/sh", "-euc", `git init -q repo; cd repo; git config user.email a@example.org; git config user.name a
		i=0; while [ $i -lt 40 ]; do mkdir d$i; j=0; while [ $j -lt 50 ]; do echo $i $j >d$i/$j; j=$((j+1)); done; i=$((i+1)); done
		git add .; git commit -qm one`)
	git.Dir = dir
	out, err := git.CombinedOutput()
	if err != nil {
		return fmt.Errorf("git: %w: %s", err, out)
	}
	return nil
}

// each does f for n numbers, on as many goroutines.
func each(threads, n int, f func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, threads)
	for t := range threads {
		wg.Go(func() {
			for i := t; i < n && errs[t] == nil; i += threads {
				errs[t] = f(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// drop drops what is cached of the large file, in the view and below.
func drop(s viewSide) error {
	for _, p := range []string{s.dir, s.host} {
		fd, err := unix.Open(filepath.Join(p, "large"), unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		unix.Fdatasync(fd)
		err = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED)
		unix.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// readLarge reads the large file, in pieces.
func readLarge(s viewSide, size int) error {
	f, err := os.Open(filepath.Join(s.dir, "large"))
	if err != nil {
		return err
	}
	defer f.Close()
	return readAll(f, size)
}

func readAll(f *os.File, size int) error {
	b := make([]byte, size)
	for off := int64(0); ; off += int64(size) {
		if _, err := f.ReadAt(b, off); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func writeFile(s viewSide, size, total int, sync bool) error {
	f, err := os.OpenFile(filepath.Join(s.dir, "written"), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	b := make([]byte, size)
	for n := 0; n < total; n += size {
		if _, err := f.Write(b); err != nil {
			return err
		}
		if sync {
			if err := f.Sync(); err != nil {
				return err
			}
		}
	}
	return nil
}

func command(s viewSide, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %.200s", name, err, out)
	}
	return nil
}

func viewRows() []viewRow {
	many := func(s viewSide, i int) string { return filepath.Join(s.dir, "many", fmt.Sprint(i)) }
	var rows []viewRow
	add := func(name string, do func(s viewSide) error) {
		rows = append(rows, viewRow{name: name, least: 0.9, do: do})
	}
	want := func(least float64) { rows[len(rows)-1].least = least }
	before := func(f func(s viewSide) error) { rows[len(rows)-1].prepare = f }
	for _, threads := range []int{1, 8} {
		label := fmt.Sprintf(", %d threads", threads)
		add("stat of 10 000 files"+label, func(s viewSide) error {
			return each(threads, viewFiles, func(i int) error { _, err := os.Lstat(many(s, i)); return err })
		})
		add("open and close, 2 000"+label, func(s viewSide) error {
			return each(threads, 2000, func(i int) error {
				fd, err := unix.Open(many(s, i), unix.O_RDONLY, 0)
				if err == nil {
					unix.Close(fd)
				}
				return err
			})
		})
		add("create and unlink, 1 000"+label, func(s viewSide) error {
			return each(threads, 1000, func(i int) error {
				p := filepath.Join(s.dir, "some", fmt.Sprint(i))
				fd, err := unix.Open(p, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o600)
				if err != nil {
					return err
				}
				unix.Close(fd)
				return unix.Unlink(p)
			})
		})
		add("random 4 k reads, 4 000"+label, func(s viewSide) error {
			f, err := os.Open(filepath.Join(s.dir, "large"))
			if err != nil {
				return err
			}
			defer f.Close()
			return each(threads, 4000, func(i int) error {
				_, err := f.ReadAt(make([]byte, 4096), int64(i*7919%(viewLarge/4096))*4096)
				return err
			})
		})
		before(drop)
		add("rename, 1 000"+label, func(s viewSide) error {
			return each(threads, 500, func(i int) error {
				a, b := many(s, i), filepath.Join(s.dir, "some", fmt.Sprint(i))
				return errors.Join(os.Rename(a, b), os.Rename(b, a))
			})
		})
		add("readdir of 10 000, "+fmt.Sprint(threads)+" at once", func(s viewSide) error {
			return each(threads, threads, func(int) error {
				f, err := os.Open(filepath.Join(s.dir, "many"))
				if err != nil {
					return err
				}
				defer f.Close()
				_, err = f.Readdirnames(-1)
				return err
			})
		})
	}
	add("readdir and lstat of 10 000", func(s viewSide) error {
		f, err := os.Open(filepath.Join(s.dir, "many"))
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.Readdir(-1)
		return err
	})
	add("100 B appends, 5 000", func(s viewSide) error {
		f, err := os.OpenFile(filepath.Join(s.dir, "some/log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer f.Close()
		return each(1, 5000, func(int) error { _, err := f.Write(make([]byte, 100)); return err })
	})
	want(1.3)
	for _, size := range []struct {
		name string
		n    int
	}{{"4 k", 4 << 10}, {"128 k", 128 << 10}, {"1 M", 1 << 20}} {
		add(size.name+" reads of 32 M, cold", func(s viewSide) error { return readLarge(s, size.n) })
		before(drop)
		var open *os.File
		add(size.name+" reads of 32 M, warm", func(s viewSide) error { defer open.Close(); return readAll(open, size.n) })
		if size.n == 4<<10 {
			want(3)
		}
		before(func(s viewSide) (err error) {
			if open, err = os.Open(filepath.Join(s.dir, "large")); err != nil {
				return err
			}
			return readAll(open, 1<<20)
		})
		add(size.name+" reads of 32 M, warm, 8 threads", func(s viewSide) error {
			f, err := os.Open(filepath.Join(s.dir, "large"))
			if err != nil {
				return err
			}
			defer f.Close()
			return each(8, viewLarge/size.n, func(i int) error {
				_, err := f.ReadAt(make([]byte, size.n), int64(i*size.n))
				return err
			})
		})
		before(func(s viewSide) error { return readLarge(s, 1<<20) })
		add(size.name+" reads of 32 M, opened again", func(s viewSide) error { return readLarge(s, size.n) })
		want(5)
		before(func(s viewSide) error { return readLarge(s, 1<<20) })
		add(size.name+" writes of 16 M", func(s viewSide) error { return writeFile(s, size.n, 16<<20, false) })
	}
	add("mmap read of 32 M", func(s viewSide) error {
		fd, err := unix.Open(filepath.Join(s.dir, "large"), unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		m, err := unix.Mmap(fd, 0, viewLarge, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		defer unix.Munmap(m)
		sum := 0
		for i := 0; i < len(m); i += 4096 {
			sum += int(m[i])
		}
		if sum != 0 {
			return errors.New("the map has other data")
		}
		return nil
	})
	add("4 k write and fsync, 50", func(s viewSide) error { return writeFile(s, 4096, 50*4096, true) })
	add("find -size", func(s viewSide) error { return command(s, "find", ".", "-size", "+1000k") })
	add("rg", func(s viewSide) error { return command(s, "rg", "-uu", "-c", "11 11", "repo") })
	add("git status", func(s viewSide) error { return command(s, "git", "-C", "repo", "status", "--porcelain") })
	want(8)
	add("git clone", func(s viewSide) error { return command(s, "git", "clone", "-q", "--no-local", "repo", "cloned") })
	before(func(s viewSide) error { return os.RemoveAll(filepath.Join(s.dir, "cloned")) })
	return rows
}

func compareViews(ours, theirs, native viewSide) error {
	fmt.Printf("\nThe file view: medians of up to %d interleaved runs, ms; factor: peer / docportal\n", viewRounds)
	fmt.Printf("  %-38s %9s %9s %9s %8s %8s\n", "", "native", "peer", "docportal", "factor", "expected")
	sides := []viewSide{native, theirs, ours}
	var missed []string
	var errs []error
	for _, row := range viewRows() {
		columns := []*column{{}, {}, {}}
		begun := now()
		for range viewRounds {
			for i, s := range sides {
				if columns[i].note != "" {
					continue
				}
				err := func() error {
					if row.prepare != nil {
						if err := row.prepare(s); err != nil {
							return err
						}
					}
					start := now()
					err := row.do(s)
					columns[i].add(now() - start)
					return err
				}()
				if err != nil {
					columns[i].note = err.Error()
					errs = append(errs, fmt.Errorf("%s: %s: %w", s.name, row.name, err))
				}
			}
			if now()-begun > viewTime {
				break
			}
		}
		factor := float64(columns[1].median()) / float64(max(columns[2].median(), 1))
		mark := ""
		if factor < row.least {
			mark = "  missed"
			missed = append(missed, row.name)
		}
		fmt.Printf("  %-38s %9s %9s %9s %8.1f %8.1f%s\n", row.name, ms(columns[0].median()), ms(columns[1].median()),
			ms(columns[2].median()), factor, row.least, mark)
	}
	verdict(fmt.Sprintf("every figure is as expected (%d are not)", len(missed)), len(missed) == 0)
	return errors.Join(slices.Compact(errs)...)
}
