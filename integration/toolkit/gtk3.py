"""A GTK 3 program with a clipboard, files to drag and links (requests.py)."""

import gi

gi.require_version("Gtk", "3.0")
gi.require_version("Gdk", "3.0")
from gi.repository import Gdk, Gio, Gtk  # noqa: E402
from requests import serve  # noqa: E402

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


serve(copy=copy, paste=paste, drag=drag, link=link, asked=lambda request: {"formats": asked})
