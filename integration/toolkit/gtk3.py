"""A GTK 3 program with a clipboard, files to drag and links: requests on
standard input, a JSON object a line, an answer a line on standard output."""

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


def show(request, widget):
    """Shows a widget in a window of its own with that title, and answers when it
    can be seen."""
    top = Gtk.Window(title=request["text"], default_width=240, default_height=120)
    top.add(widget)
    top.show_all()
    while not top.get_window().is_viewable():
        Gtk.main_iteration()
    return {}


asked = []  # the targets that somebody wanted a dragged file as


def dragged_as(dragged):
    def get(widget, context, data, info, time):
        asked.append(data.get_target().name())
        data.set_uris(dragged)

    return get


def drag(request):
    del asked[:]
    box = Gtk.EventBox()
    box.add(Gtk.Label(label="Drag me"))
    targets = [Gtk.TargetEntry.new(name, 0, i) for i, name in enumerate([TRANSFER, "text/uri-list"])]
    box.drag_source_set(Gdk.ModifierType.BUTTON1_MASK, targets, Gdk.DragAction.COPY)
    dragged = [Gio.File.new_for_path(p).get_uri() for p in request["paths"]]
    box.connect("drag-data-get", dragged_as(dragged))
    return show(request, box)


def link(request):
    return show(request, Gtk.LinkButton(uri=request["paths"][0], label="Click me"))


def answer(request):
    if request["op"] == "copy":
        return copy(request)
    if request["op"] == "paste":
        return paste(request)
    if request["op"] == "drag":
        return drag(request)
    if request["op"] == "asked":
        return {"formats": asked}
    if request["op"] == "link":
        return link(request)
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
