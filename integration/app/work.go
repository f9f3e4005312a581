package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"docportal/integration/wire"
)

// work works in the directory r.Path for r.Data, a duration, without pause:
// makes, writes, reads, looks at, lists, moves and removes files whose names
// begin with r.Name. The answer has the number of rounds, how long the longest
// step took, and what failed, 20 at most.
func work(r wire.Request, a *wire.Answer) error {
	for_, err := time.ParseDuration(r.Data)
	if err != nil {
		return err
	}
	w := worker{dir: r.Path, prefix: r.Name, answer: a}
	rounds := 0
	for end := time.Now().Add(for_); time.Now().Before(end) && len(a.Names) < 20; rounds++ {
		w.round(rounds)
	}
	a.Data = fmt.Sprint(rounds)
	a.Path = w.longest.String()
	return nil
}

type worker struct {
	dir, prefix string
	answer      *wire.Answer
	longest     time.Duration
}

// try does a step; what it says to have failed has failed.
func (w *worker) try(what string, f func() error) {
	start := time.Now()
	err := f()
	w.longest = max(w.longest, time.Since(start))
	if err != nil {
		w.answer.Names = append(w.answer.Names, fmt.Sprintf("%s: %v", what, err))
	}
}

func (w *worker) round(n int) {
	dir := filepath.Join(w.dir, w.prefix+strconv.Itoa(n))
	file, other := filepath.Join(dir, "file"), filepath.Join(dir, "other")
	data := bytes.Repeat([]byte(strconv.Itoa(n)+"\n"), 100+n%5000)
	same := func(path string) func() error {
		return func() error {
			b, err := os.ReadFile(path)
			if err == nil && !bytes.Equal(b, data) {
				err = fmt.Errorf("%d other bytes", len(b))
			}
			return err
		}
	}
	w.try("mkdir", func() error { return os.Mkdir(dir, 0o755) })
	w.try("create", func() error {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return errors.Join(err, f.Close())
	})
	w.try("read", same(file))
	w.try("stat", func() error {
		info, err := os.Stat(file)
		if err == nil && info.Size() != int64(len(data)) {
			err = fmt.Errorf("%d bytes", info.Size())
		}
		return err
	})
	w.try("rename", func() error { return os.Rename(file, other) })
	w.try("read it there", same(other))
	w.try("list", func() error {
		list, err := os.ReadDir(dir)
		if err == nil && (len(list) != 1 || list[0].Name() != "other") {
			err = fmt.Errorf("%v", list)
		}
		return err
	})
	w.try("remove", func() error { return syscall.Unlink(other) })
	w.try("rmdir", func() error { return syscall.Rmdir(dir) })
}
