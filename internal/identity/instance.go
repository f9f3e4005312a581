package identity

// Bind is one mount of a sandbox, as sbx-run records it in the file "binds" of
// the instance directory: three NUL-terminated fields, "ro" or "rw", the
// host's path, the sandbox's path.
type Bind struct {
	ReadOnly bool
	Host     string // absolute path on the host
	Sandbox  string // absolute path in the sandbox
}
