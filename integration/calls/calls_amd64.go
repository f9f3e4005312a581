package main

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// own are the calls of this architecture alone.
func own() []try {
	return []try{{"uselib", unix.SYS_USELIB, [3]uintptr{}}}
}

// foreign tries the ways into the other ABIs of the kernel.
func foreign() {
	for _, c := range []struct {
		name string
		nr   uint32
	}{{"int80-getpid", 20}, {"int80-mount", 21}, {"int80-ptrace", 26}, {"int80-clone3", 435}} {
		report(c.name, int80(c.nr))
	}
	_, _, errno := unix.RawSyscall(x32|unix.SYS_GETPID, 0, 0, 0)
	report("x32-getpid", errno)
	_, _, errno = unix.RawSyscall(x32|unix.SYS_MOUNT, 0, 0, 0)
	report("x32-mount", errno)
	_, _, errno = unix.RawSyscall(x32|521, 0, 0, 0) // ptrace of x32
	report("x32-ptrace", errno)
}

// x32 marks the numbers of the x32 ABI.
const x32 = 0x40000000

// int80 makes a system call as an i386 program does. The few
// instructions are written by hand: an assembler file could not stand beside
// cgo, which the race detector needs.
func int80(nr uint32) unix.Errno {
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	const result = 2048 // offset of the word that the code stores eax in
	at := uint64(uintptr(unsafe.Pointer(&page[result])))
	code := []byte{0x53, 0xb8, byte(nr), byte(nr >> 8), byte(nr >> 16), byte(nr >> 24)} // push rbx; mov eax, nr
	code = append(code, 0x31, 0xdb, 0x31, 0xc9, 0x31, 0xd2)                             // xor ebx,ebx; ecx; edx
	code = append(code, 0xcd, 0x80)                                                     // int 0x80
	code = append(code, 0x48, 0xba)                                                     // mov rdx, at
	for i := range 8 {
		code = append(code, byte(at>>(8*i)))
	}
	code = append(code, 0x89, 0x02, 0x5b, 0xc3) // mov [rdx], eax; pop rbx; ret
	copy(page, code)
	entry := unsafe.Pointer(&page[0])
	closure := unsafe.Pointer(&entry) // a func value points at a pointer to code
	(*(*func())(unsafe.Pointer(&closure)))()
	eax := *(*int32)(unsafe.Pointer(&page[result]))
	if eax < 0 && eax > -4096 {
		return unix.Errno(-eax)
	}
	return 0
}
