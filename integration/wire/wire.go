// Package wire is what the tests and the program in the sandbox say to each
// other: one JSON object in a line for a request, one for its answer. The
// program does what it is told and nothing else; what it finds is told as it is.
package wire

// Request asks the program for one thing.
type Request struct {
	Op string `json:"op"`
	// Path is the file that read, write, create, list, stat and remove mean, or the object path
	// of call.
	Path string `json:"path,omitempty"`
	// Data is what write and create put into the file, the URI to open, or
	// the metadata that forge puts into its root.
	Data string `json:"data,omitempty"`
	// Name is the file name that save suggests, or the portal that portal calls.
	Name string `json:"name,omitempty"`
	// Dest and Method are the bus name and the full method name of call, whose
	// arguments are Args, strings.
	Dest   string   `json:"dest,omitempty"`
	Method string   `json:"method,omitempty"`
	Args   []string `json:"args,omitempty"`
}

// Answer is what came of a request.
type Answer struct {
	// Err is the error in the program's words, "" if there was none.
	Err string `json:"err,omitempty"`
	// Errno is the name of the system's error, such as "EACCES".
	Errno string `json:"errno,omitempty"`
	// DBusError is the name of the D-Bus error.
	DBusError string `json:"dbusError,omitempty"`
	// URI is the first URI that the file chooser gave, Path its path.
	URI  string `json:"uri,omitempty"`
	Path string `json:"path,omitempty"`
	// Data is what was read, printed or received.
	Data string `json:"data,omitempty"`
	// Names are the entries of a directory, sorted.
	Names []string `json:"names,omitempty"`
}
