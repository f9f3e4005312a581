"""A GTK 4 program with a clipboard: requests on standard input, a JSON object
a line, an answer a line on standard output."""

import gi
import json
import os
import sys

gi.require_version("Gtk", "4.0")
gi.require_version("Gdk", "4.0")
from gi.repository import Gdk, Gio, GLib, Gtk  # noqa: E402

TRANSFER = "application/vnd.portal.filetransfer"

Gtk.init()
clipboard = Gdk.Display.get_default().get_clipboard()
loop = GLib.MainLoop()


def wait(start, finish):
    """Runs an asynchronous call to its end."""
    results = []

    def done(source, result):
        results.append(result)
        inner.quit()

    inner = GLib.MainLoop()
    start(done)
    inner.run()
    return finish(results[0])


def copy(request):
    files = [Gio.File.new_for_path(p) for p in request["paths"]]
    provider = Gdk.ContentProvider.new_for_value(Gdk.FileList.new_from_list(files))
    if not clipboard.set_content(provider):
        raise RuntimeError("no clipboard")
    return {"formats": clipboard.get_formats().get_mime_types()}


def paste(request):
    formats = clipboard.get_formats().get_mime_types() or []
    if TRANSFER not in formats:
        raise RuntimeError("only " + " ".join(formats))
    value = wait(
        lambda done: clipboard.read_value_async(Gdk.FileList, GLib.PRIORITY_DEFAULT, None, done),
        clipboard.read_value_finish,
    )
    return {"paths": [f.get_path() for f in value.get_files()]}


def answer(request):
    if request["op"] == "copy":
        return copy(request)
    if request["op"] == "paste":
        return paste(request)
    if request["op"] == "read":
        with open(request["paths"][0]) as f:
            return {"text": f.read()}
    if request["op"] == "write":
        with open(request["paths"][0], "w") as f:
            f.write(request["text"])
        return {}
    if request["op"] == "environment":
        return {"text": os.environ.get(request["text"], "")}
    raise ValueError(request["op"])


def line(source, condition):
    text = sys.stdin.readline()
    if not text:
        loop.quit()
        return False
    try:
        a = answer(json.loads(text))
    except Exception as e:
        a = {"err": "%s: %s" % (type(e).__name__, e)}
    print(json.dumps(a), flush=True)
    return True


GLib.io_add_watch(sys.stdin, GLib.IO_IN | GLib.IO_HUP, line)
loop.run()
