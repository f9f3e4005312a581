package apps

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math"
)

// pdf is a page with a line of text, which has no parentheses.
func pdf(line string) []byte {
	var b bytes.Buffer
	var at []int
	object := func(text string) {
		at = append(at, b.Len())
		fmt.Fprintf(&b, "%d 0 obj\n%s\nendobj\n", len(at), text)
	}
	b.WriteString("%PDF-1.4\n")
	object("<< /Type /Catalog /Pages 2 0 R >>")
	object("<< /Type /Pages /Kids [3 0 R] /Count 1 >>")
	object("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 420 300] /Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>")
	content := fmt.Sprintf("BT /F 24 Tf 40 200 Td (%s) Tj ET", line)
	object(fmt.Sprintf("<< /Length %d >>\nstream\n%s\nendstream", len(content), content))
	object("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>")
	table := b.Len()
	fmt.Fprintf(&b, "xref\n0 %d\n0000000000 65535 f \n", len(at)+1)
	for _, offset := range at {
		fmt.Fprintf(&b, "%010d 00000 n \n", offset)
	}
	fmt.Fprintf(&b, "trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n", len(at)+1, table)
	return b.Bytes()
}

// paper is a small file of a kind that applications open, by its name; nil if
// there is none of that name.
func paper(name string) []byte {
	switch name {
	case "paper.pdf":
		return pdf("What is printed.")
	case "picture.png":
		return drawing()
	case "book.epub":
		return book()
	case "sound.wav":
		return tone()
	case "data.torrent":
		return []byte("d4:infod6:lengthi5e4:name9:hello.txt12:piece lengthi32768e6:pieces20:abcdefghijklmnopqrstee")
	case "letter.eml":
		return []byte("From: a@example.org\r\nTo: b@example.org\r\nSubject: A letter\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n\r\nWords.\r\n")
	case "letter.rtf":
		return []byte(`{\rtf1 Words.}`)
	case "page.html":
		return []byte("<!DOCTYPE html>\n<title>A page of the host</title>\n<p>Words.\n")
	}
	return nil
}

// drawing is a green square.
func drawing() []byte {
	m := image.NewNRGBA(image.Rect(0, 0, 64, 64))
	draw.Draw(m, m.Bounds(), image.NewUniform(color.NRGBA{G: 160, A: 255}), image.Point{}, draw.Src)
	var b bytes.Buffer
	png.Encode(&b, m)
	return b.Bytes()
}

// tone is a minute of a tone: 8000 samples a second of 16 bits.
func tone() []byte {
	const rate, samples = 8000, 60 * 8000
	var b bytes.Buffer
	b.WriteString("RIFF")
	binary.Write(&b, binary.LittleEndian, uint32(36+2*samples))
	b.WriteString("WAVEfmt ")
	for _, v := range []any{uint32(16), uint16(1), uint16(1), uint32(rate), uint32(2 * rate), uint16(2), uint16(16)} {
		binary.Write(&b, binary.LittleEndian, v)
	}
	b.WriteString("data")
	binary.Write(&b, binary.LittleEndian, uint32(2*samples))
	for i := range samples {
		binary.Write(&b, binary.LittleEndian, int16(8000*math.Sin(float64(i)/5)))
	}
	return b.Bytes()
}

// book is a book of one word (EPUB 3).
func book() []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for _, f := range [][2]string{
		{"mimetype", "application/epub+zip"},
		{"META-INF/container.xml", `<?xml version="1.0"?><container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="b.opf" media-type="application/oebps-package+xml"/></rootfiles></container>`},
		{"b.opf", `<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="i"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="i">urn:x:1</dc:identifier><dc:title>A small book</dc:title><dc:language>en</dc:language></metadata><manifest><item id="n" href="n.xhtml" media-type="application/xhtml+xml" properties="nav"/><item id="c" href="c.xhtml" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="c"/></spine></package>`},
		{"n.xhtml", `<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops"><head><title>n</title></head><body><nav epub:type="toc"><ol><li><a href="c.xhtml">One</a></li></ol></nav></body></html>`},
		{"c.xhtml", `<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title>One</title></head><body><h1>One</h1><p>Words.</p></body></html>`},
	} {
		// The first is to be stored as it is, and small ones may be.
		w, _ := z.CreateHeader(&zip.FileHeader{Name: f[0], Method: zip.Store})
		w.Write([]byte(f[1]))
	}
	z.Close()
	return b.Bytes()
}
