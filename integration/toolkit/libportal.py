"""A client of the desktop portal by libportal (requests.py)."""

import gi

gi.require_version("Xdp", "1.0")
from gi.repository import Gio, GLib, Xdp  # noqa: E402
from requests import serve, wait  # noqa: E402

portal = Xdp.Portal()


def open_file(request):
    flags = Xdp.OpenFileFlags.NONE
    if request.get("multiple"):
        flags = Xdp.OpenFileFlags.MULTIPLE
    v = wait(
        lambda done: portal.open_file(None, "Open", None, None, None, flags, None, done),
        portal.open_file_finish,
    )
    return paths(v)


def save_file(request):
    v = wait(
        lambda done: portal.save_file(
            None, "Save", request["text"], None, None, None, None, None, Xdp.SaveFileFlags.NONE, None, done
        ),
        portal.save_file_finish,
    )
    return paths(v)


def paths(v):
    uris = v.lookup_value("uris", GLib.VariantType.new("as"))
    return {"paths": [Gio.File.new_for_uri(u).get_path() for u in uris.unpack()]}


def sandboxed(request):
    return {"text": "%s %s" % (Xdp.Portal.running_under_sandbox(), Xdp.Portal.running_under_flatpak())}


serve(sandboxed=sandboxed, open=open_file, save=save_file)
