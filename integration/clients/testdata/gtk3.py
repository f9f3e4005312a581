"""A GTK 3 program with a clipboard: requests on standard input, a JSON object
a line, an answer a line on standard output."""

import gi
import json
import os
import sys

gi.require_version("Gtk", "3.0")
gi.require_version("Gdk", "3.0")
from gi.repository import Gdk, Gio, GLib, Gtk  # noqa: E402

CLIPBOARD = Gdk.Atom.intern("CLIPBOARD", False)
TRANSFER = "application/vnd.portal.filetransfer"

window = Gtk.Window()
window.realize()
uris = []


def selection_get(widget, data, info, time):
    data.set_uris(uris)


window.connect("selection-get", selection_get)


def copy(request):
    uris[:] = [Gio.File.new_for_path(p).get_uri() for p in request["paths"]]
    Gtk.selection_clear_targets(window, CLIPBOARD)
    for i, name in enumerate([TRANSFER, "text/uri-list"]):
        Gtk.selection_add_target(window, CLIPBOARD, Gdk.Atom.intern(name, False), i)
    if not Gtk.selection_owner_set(window, CLIPBOARD, Gdk.CURRENT_TIME):
        raise RuntimeError("no clipboard")
    return {}


def paste(request):
    clipboard = Gtk.Clipboard.get(CLIPBOARD)
    data = clipboard.wait_for_contents(Gdk.Atom.intern(TRANSFER, False))
    if data is None:
        raise RuntimeError("no " + TRANSFER)
    return {"paths": [Gio.File.new_for_uri(u).get_path() for u in data.get_uris()]}


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
        Gtk.main_quit()
        return False
    try:
        a = answer(json.loads(text))
    except Exception as e:
        a = {"err": "%s: %s" % (type(e).__name__, e)}
    print(json.dumps(a), flush=True)
    return True


GLib.io_add_watch(sys.stdin, GLib.IO_IN | GLib.IO_HUP, line)
Gtk.main()
