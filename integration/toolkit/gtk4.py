"""A GTK 4 program with a clipboard, files to drag and links (requests.py)."""

import ctypes
import gi

gi.require_version("Gtk", "4.0")
gi.require_version("Gdk", "4.0")
from gi.repository import Gdk, Gio, GLib, Gtk  # noqa: E402
from requests import serve, wait  # noqa: E402

TRANSFER = "application/vnd.portal.filetransfer"

Gtk.init()
clipboard = Gdk.Display.get_default().get_clipboard()


def copy(request):
    files = [Gio.File.new_for_path(p) for p in request["paths"]]
    provider = Gdk.ContentProvider.new_for_value(Gdk.FileList.new_from_list(files))
    if not clipboard.set_content(provider):
        raise RuntimeError("no clipboard")
    return {"formats": clipboard.get_formats().get_mime_types()}


def paste(request):
    # That there is another owner, and what it offers, come as events.
    while clipboard.is_local() or TRANSFER not in (clipboard.get_formats().get_mime_types() or []):
        GLib.MainContext.default().iteration(True)
    return {
        "paths": wait(
            lambda done: clipboard.read_value_async(Gdk.FileList, GLib.PRIORITY_DEFAULT, None, done),
            file_list,
        )
    }


def file_list(result):
    """What Clipboard.read_value_finish says: its binding hands out a list that
    it has freed."""
    lib = ctypes.CDLL("libgtk-4.so.1")

    def call(name, *args):
        f = getattr(lib, name)
        f.restype = ctypes.c_void_p
        return f(*[ctypes.c_void_p(a) for a in args])

    value = call("gdk_clipboard_read_value_finish", hash(clipboard), hash(result), None)
    if not value:
        clipboard.read_value_finish(result)  # the error
    paths = []
    item = call("gdk_file_list_get_files", call("g_value_get_boxed", value))
    while item:
        data, item = ctypes.cast(item, ctypes.POINTER(ctypes.c_void_p * 2)).contents
        paths.append(ctypes.string_at(call("g_file_get_path", data)).decode())
    return paths


def show(request, widget):
    """Shows a widget in a window of its own with that title, and answers when it
    can be seen."""
    top = Gtk.Window(title=request["text"], default_width=240, default_height=120)
    top.set_child(widget)
    top.present()
    while not top.get_mapped():
        GLib.MainContext.default().iteration(True)
    return {}


def drag(request):
    label = Gtk.Label(label="Drag me")
    source = Gtk.DragSource(actions=Gdk.DragAction.COPY)
    files = [Gio.File.new_for_path(p) for p in request["paths"]]
    source.set_content(Gdk.ContentProvider.new_for_value(Gdk.FileList.new_from_list(files)))
    label.add_controller(source)
    return show(request, label)


def link(request):
    return show(request, Gtk.LinkButton(uri=request["paths"][0], label="Click me"))


serve(copy=copy, paste=paste, drag=drag, link=link)
