package permstore

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A child of a test runs one of these instead of the tests.
func TestMain(m *testing.M) {
	switch os.Getenv("PERMSTORE_TEST_CHILD") {
	case "write":
		writeUntilKilled(os.Getenv("PERMSTORE_TEST_DIR"))
	case "full disk":
		os.Exit(onFullDisk(os.Getenv("PERMSTORE_TEST_DIR")))
	case "file size limit":
		os.Exit(withAFileSizeLimit(os.Getenv("PERMSTORE_TEST_DIR")))
	default:
		os.Exit(m.Run())
	}
}

// crashers is how many goroutines change the store at once.
const crashers = 4

// crashIndexes give the store more to keep in step.
func crashIndexes() []Index {
	return []Index{{Table: "t", Name: "data", Keys: func(_ string, e Entry) [][]byte { return [][]byte{e.Data.Data} }}}
}

// writeUntilKilled changes entries and says on standard output what was
// acknowledged: "worker generation". Each worker has three entries that it
// always changes together.
func writeUntilKilled(dir string) {
	s, err := Open(dir, Options{Indexes: crashIndexes()})
	if err != nil {
		fmt.Println("!", err)
		os.Exit(1)
	}
	var mu sync.Mutex
	for w := range crashers {
		go func() {
			var generation uint32
			s.View(func(tx *Tx) error {
				if e, ok, _ := tx.Get("t", fmt.Sprint(w, " ", 0)); ok {
					generation = fromData(e)
				}
				return nil
			})
			for {
				generation++
				err := s.Update(context.Background(), func(tx *Tx) error {
					for i := range 3 {
						if err := tx.Put("t", fmt.Sprint(w, " ", i), toData(generation)); err != nil {
							return err
						}
					}
					// And some coming and going, so that pages split and merge.
					for range 20 {
						id := fmt.Sprint("noise ", w, " ", rand.IntN(300))
						if rand.IntN(2) == 0 {
							if _, err := tx.Delete("t", id); err != nil {
								return err
							}
						} else if err := tx.Put("t", id, toData(rand.Uint32())); err != nil {
							return err
						}
					}
					return nil
				})
				mu.Lock()
				if err != nil {
					fmt.Println("!", err)
					os.Exit(1)
				}
				fmt.Println(w, generation)
				mu.Unlock()
			}
		}()
	}
	select {}
}

func toData(n uint32) Entry {
	e := Entry{Permissions: map[string][]string{fmt.Sprint("app", n%7): {"read"}}}
	e.Data.Signature = "u"
	e.Data.Data = []byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}
	return e
}

func fromData(e Entry) uint32 {
	d := e.Data.Data
	return uint32(d[0]) | uint32(d[1])<<8 | uint32(d[2])<<16 | uint32(d[3])<<24
}

// Nothing acknowledged is lost, and no change is there by halves, wherever a
// SIGKILL falls. PERMSTORE_CRASHES is how many there are.
func TestKilled(t *testing.T) {
	rounds := 12
	if n, err := strconv.Atoi(os.Getenv("PERMSTORE_CRASHES")); err == nil {
		rounds = n
	}
	dir := t.TempDir()
	self, err := os.Executable()
	must(t, err)
	var acknowledged [crashers]uint32
	total := 0
	for round := range rounds {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "PERMSTORE_TEST_CHILD=write", "PERMSTORE_TEST_DIR="+dir)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		r := bufio.NewScanner(out)
		var kill *time.Timer
		for r.Scan() {
			var w, g uint32
			if _, err := fmt.Sscan(r.Text(), &w, &g); err != nil {
				t.Errorf("child: %s", r.Text())
				break
			}
			acknowledged[w] = g
			total++
			if kill == nil { // at a random moment of its work
				kill = time.AfterFunc(time.Duration(rand.IntN(60_000))*time.Microsecond, func() { cmd.Process.Kill() })
			}
		}
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			return
		}
		s := open(t, dir, Options{Indexes: crashIndexes()})
		<-s.checked
		if len(asideFiles(t, dir)) > 0 {
			t.Fatalf("round %d: the file was taken for damaged", round)
		}
		for w := range crashers {
			var got [3]uint32
			for i := range 3 {
				e, ok := get(t, s, "t", fmt.Sprint(w, " ", i))
				if ok {
					got[i] = fromData(e)
				}
			}
			if got[0] < acknowledged[w] || got[0] != got[1] || got[0] != got[2] {
				t.Errorf("round %d: worker %d was told %d, the entries say %d", round, w, acknowledged[w], got)
			}
		}
		if round%2 == 0 { // else the next child begins after an unclean end
			must(t, s.Close())
		} else {
			s.Close()
			os.Truncate(dir+"/"+lockName, 0)
		}
		if r, err := Check(dir, crashIndexes()); err != nil || len(r.Problems) > 0 {
			t.Fatalf("round %d: %v, %v", round, r, err)
		}
	}
	t.Logf("%d acknowledged updates, %d kills", total, rounds)
}
