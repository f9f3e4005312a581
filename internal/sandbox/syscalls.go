package sandbox

import "golang.org/x/sys/unix"

// The architectures, in the order of systemCall.numbers.
const (
	archAMD64 = iota
	arch386
	archARM64
	archARM
	archRISCV64
	archCount
)

// absent stands for the number of a call that an architecture does not have.
const absent = ^uint32(0)

// systemCall is a system call that the filter knows: what it answers, and the
// call's number on each architecture, as golang.org/x/sys/unix has it. The
// numbers are repeated here because that package shows each architecture only
// to itself, and the filter is also made for foreign ones.
type systemCall struct {
	name string
	// errno is what the call always fails with, unless the filter allows it; 0
	// if it depends on the call's arguments.
	errno   unix.Errno
	unless  func(Filter) bool // nil: never allowed
	numbers [archCount]uint32
}

func userns(f Filter) bool { return f.Userns }
func devel(f Filter) bool  { return f.Devel }

// systemCalls are the calls that do not simply go through. Interfaces that
// programs use only with privileges fail with EPERM; newer ones, for which
// programs have a fallback, and whose arguments a filter cannot see, with
// ENOSYS.
var systemCalls = []systemCall{
	// amd64, 386, arm64, arm, riscv64
	{"mount", unix.EPERM, nil, [...]uint32{165, 21, 40, 21, 40}},
	{"umount", unix.EPERM, nil, [...]uint32{absent, 22, absent, absent, absent}},
	{"umount2", unix.EPERM, nil, [...]uint32{166, 52, 39, 52, 39}},
	{"pivot_root", unix.EPERM, nil, [...]uint32{155, 217, 41, 218, 41}},
	{"setns", unix.EPERM, nil, [...]uint32{308, 346, 268, 375, 268}},
	{"unshare", unix.EPERM, userns, [...]uint32{272, 310, 97, 337, 97}},
	{"chroot", unix.EPERM, userns, [...]uint32{161, 61, 51, 61, 51}},
	{"add_key", unix.EPERM, nil, [...]uint32{248, 286, 217, 309, 217}},
	{"keyctl", unix.EPERM, nil, [...]uint32{250, 288, 219, 311, 219}},
	{"request_key", unix.EPERM, nil, [...]uint32{249, 287, 218, 310, 218}},
	{"quotactl", unix.EPERM, nil, [...]uint32{179, 131, 60, 131, 60}},
	{"quotactl_fd", unix.EPERM, nil, [...]uint32{443, 443, 443, 443, 443}},
	{"acct", unix.EPERM, nil, [...]uint32{163, 51, 89, 51, 89}},
	{"syslog", unix.EPERM, nil, [...]uint32{103, 103, 116, 103, 116}},
	{"uselib", unix.EPERM, nil, [...]uint32{134, 86, absent, 86, absent}},
	{"mbind", unix.EPERM, nil, [...]uint32{237, 274, 235, 319, 235}},
	{"get_mempolicy", unix.EPERM, nil, [...]uint32{239, 275, 236, 320, 236}},
	{"set_mempolicy", unix.EPERM, nil, [...]uint32{238, 276, 237, 321, 237}},
	{"set_mempolicy_home_node", unix.EPERM, nil, [...]uint32{450, 450, 450, 450, 450}},
	{"migrate_pages", unix.EPERM, nil, [...]uint32{256, 294, 238, 400, 238}},
	{"move_pages", unix.EPERM, nil, [...]uint32{279, 317, 239, 344, 239}},
	{"ptrace", unix.EPERM, devel, [...]uint32{101, 26, 117, 26, 117}},
	{"perf_event_open", unix.EPERM, devel, [...]uint32{298, 336, 241, 364, 241}},
	{"clone3", unix.ENOSYS, nil, [...]uint32{435, 435, 435, 435, 435}},
	{"open_tree", unix.ENOSYS, nil, [...]uint32{428, 428, 428, 428, 428}},
	{"open_tree_attr", unix.ENOSYS, nil, [...]uint32{467, 467, 467, 467, 467}},
	{"move_mount", unix.ENOSYS, nil, [...]uint32{429, 429, 429, 429, 429}},
	{"fsopen", unix.ENOSYS, nil, [...]uint32{430, 430, 430, 430, 430}},
	{"fsconfig", unix.ENOSYS, nil, [...]uint32{431, 431, 431, 431, 431}},
	{"fsmount", unix.ENOSYS, nil, [...]uint32{432, 432, 432, 432, 432}},
	{"fspick", unix.ENOSYS, nil, [...]uint32{433, 433, 433, 433, 433}},
	{"mount_setattr", unix.ENOSYS, nil, [...]uint32{442, 442, 442, 442, 442}},
	// An io_uring makes sockets of any family without a system call.
	{"io_uring_setup", unix.ENOSYS, nil, [...]uint32{425, 425, 425, 425, 425}},
	{"io_uring_enter", unix.ENOSYS, nil, [...]uint32{426, 426, 426, 426, 426}},
	{"io_uring_register", unix.ENOSYS, nil, [...]uint32{427, 427, 427, 427, 427}},
	// These depend on their arguments.
	{"clone", 0, userns, [...]uint32{56, 120, 220, 120, 220}},
	{"ioctl", 0, nil, [...]uint32{16, 54, 29, 54, 29}},
	{"fcntl", 0, nil, [...]uint32{72, 55, 25, 55, 25}},
	{"fcntl64", 0, nil, [...]uint32{absent, 221, absent, 221, absent}},
	{"socket", 0, nil, [...]uint32{41, 359, 198, 281, 198}},
	{"socketpair", 0, nil, [...]uint32{53, 360, 199, 288, 199}},
}
