// Package sandbox starts a native program in a sandbox that desktop portals
// recognise: a profile becomes a plan (what is visible where, which bus names
// answer, which system calls fail), the plan becomes the command lines of
// bwrap and xdg-dbus-proxy, and a start carries them out.
//
// It keeps one rule: the program runs only after everything that says who it
// is was read back from the kernel and found true. Whatever is missing, odd or
// in doubt ends the start with an error and nothing left behind.
package sandbox
