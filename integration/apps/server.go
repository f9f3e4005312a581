package apps

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"mime"
	"net"
	"net/http"
	"time"
)

// Received is a file that the server got.
type Received struct {
	Name   string // as the browser gave it, for a directory with the path
	Size   int64
	SHA256 string
}

// Upload is one form that was sent: all its files, or what went wrong.
type Upload struct {
	Files []Received
	Err   error
	Took  time.Duration // from the first byte to the last
}

// Server is the web server of the page.
type Server struct {
	URL     string
	Uploads chan Upload   // in the order of their coming; the tests take each
	Visits  chan struct{} // somebody asked for /visit
	http    *http.Server
	done    chan struct{}
}

// page has a form for each way to choose files. What was chosen is sent at
// once.
const page = `<!DOCTYPE html>
<meta charset="utf-8">
<title>Send files</title>
<style>body { font: 20px sans-serif } p { margin: 2em }</style>
<h1>Send files</h1>
<form id="form" action="/upload" method="post" enctype="multipart/form-data">
<p><label id="choose-one" for="one">One file</label> <input type="file" id="one" name="file">
<p><label id="choose-many" for="many">Several files</label> <input type="file" id="many" name="file" multiple>
<p><label id="choose-dir" for="dir">A directory</label> <input type="file" id="dir" name="file" webkitdirectory>
</form>
<p id="status">nothing was sent
<p><a id="download" href="/download">Download</a>
<p><a id="paper" href="/paper.pdf">A paper</a>
<script>
const status = document.getElementById("status");
async function send(files) {
	status.textContent = "sending " + files.length;
	try {
		const data = new FormData();
		for (const f of files)
			data.append("file", f, f.webkitRelativePath || f.name);
		const answer = await fetch("/upload" + location.search, {method: "POST", body: data});
		status.textContent = await answer.text();
	} catch (e) {
		status.textContent = "failed: " + e;
		await fetch("/failed", {method: "POST", body: String(e)});
	}
}
for (const input of document.querySelectorAll("input"))
	input.onchange = () => send(input.files);
// What is dropped anywhere on the page is sent as well.
document.ondragover = e => {
	e.preventDefault();
	status.textContent = "over the page: " + Array.from(e.dataTransfer.types);
};
document.ondrop = e => {
	e.preventDefault();
	send(e.dataTransfer.files);
};
</script>
`

// devicesPage is a page that plays sound and looks for a camera when it is
// asked to.
const devicesPage = `<!DOCTYPE html>
<meta charset="utf-8">
<title>Devices</title>
<button id="play">Play</button> <button id="look">Look</button> <button id="tell">Tell</button> <p id="status">
<script>
document.getElementById("play").onclick = () => {
	const context = new AudioContext();
	const tone = context.createOscillator();
	tone.connect(context.destination);
	tone.start();
};
document.getElementById("look").onclick = () => {
	const say = text => document.getElementById("status").textContent = text;
	navigator.mediaDevices.getUserMedia({video: true}).then(() => say("a camera"), say);
};
document.getElementById("tell").onclick = () => {
	Notification.requestPermission().then(() => new Notification("Told", {body: "by a page"}));
};
</script>
`

// picturePage is a page with a picture.
const picturePage = `<!DOCTYPE html>
<meta charset="utf-8">
<title>A picture</title>
<p>A picture: <img src="/picture.svg" alt="a green square">
`

// picture is a green square.
const picture = `<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100"><rect width="100" height="100" fill="green"/></svg>
`

// plainText is the text of a page without anything else.
const plainText = "Nothing to see here, but words."

// StartServer starts the server. download is what its link gives. The caller
// closes it.
func StartServer(download []byte) (*Server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &Server{URL: "http://" + l.Addr().String() + "/", Uploads: make(chan Upload, 16), Visits: make(chan struct{}, 1), done: make(chan struct{})}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, page)
	})
	for path, content := range map[string][2]string{
		"/paper.pdf":   {"application/pdf", string(pdf("What is printed."))},
		"/devices":     {"text/html; charset=utf-8", devicesPage},
		"/picture":     {"text/html; charset=utf-8", picturePage},
		"/plain":       {"text/html; charset=utf-8", "<!DOCTYPE html>\n<title>Plain</title>\n<p>" + plainText + "\n"},
		"/picture.svg": {"image/svg+xml", picture},
	} {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", content[0])
			io.WriteString(w, content[1])
		})
	}
	mux.HandleFunc("GET /visit", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "Welcome.\n")
		select {
		case s.Visits <- struct{}{}:
		default:
		}
	})
	mux.HandleFunc("GET /download", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Content-Disposition", `attachment; filename="report.bin"`)
		w.Write(download)
	})
	mux.HandleFunc("POST /upload", func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		files, err := receive(r)
		s.Uploads <- Upload{files, err, time.Since(start)}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		for _, f := range files {
			fmt.Fprintf(w, "%q: %d bytes, SHA-256 %s\n", f.Name, f.Size, f.SHA256)
		}
	})
	mux.HandleFunc("POST /failed", func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(io.LimitReader(r.Body, 4096))
		s.Uploads <- Upload{Err: fmt.Errorf("the page says: %s", b)}
	})
	s.http = &http.Server{Handler: mux}
	go func() {
		defer close(s.done)
		s.http.Serve(l)
	}()
	return s, nil
}

// Unsummed is the query of a page whose uploads are not summed up, for
// measuring.
const Unsummed = "unsummed"

// receive reads a form's files.
func receive(r *http.Request) ([]Received, error) {
	parts, err := r.MultipartReader()
	if err != nil {
		return nil, err
	}
	unsummed := r.URL.Query().Has(Unsummed)
	var files []Received
	for {
		part, err := parts.NextPart()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return files, err
		}
		// The reader's own FileName leaves the directories out.
		_, params, err := mime.ParseMediaType(part.Header.Get("Content-Disposition"))
		if err != nil {
			return files, err
		}
		got := Received{Name: params["filename"]}
		if unsummed {
			got.Size, err = io.Copy(io.Discard, part)
		} else {
			sum := sha256.New()
			got.Size, err = io.Copy(sum, part)
			got.SHA256 = sumText(sum)
		}
		if err != nil {
			return files, err
		}
		files = append(files, got)
	}
}

func sumText(sum hash.Hash) string { return hex.EncodeToString(sum.Sum(nil)) }

// Next is the next upload; it waits for one.
func (s *Server) Next(limit time.Duration) ([]Received, error) {
	u, err := s.next(limit)
	return u.Files, err
}

func (s *Server) next(limit time.Duration) (Upload, error) {
	select {
	case u := <-s.Uploads:
		return u, u.Err
	case <-time.After(limit):
		return Upload{}, fmt.Errorf("nothing was uploaded within %v", limit)
	}
}

// Close ends the server.
func (s *Server) Close() error {
	err := s.http.Close()
	<-s.done
	return err
}
