"""A client of the desktop portal by libportal: requests on standard input, a
JSON object a line, an answer a line on standard output."""

import gi
import json
import sys

gi.require_version("Xdp", "1.0")
from gi.repository import Gio, GLib, Xdp  # noqa: E402

portal = Xdp.Portal()


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


def answer(request):
    if request["op"] == "sandboxed":
        return {"text": "%s %s" % (Xdp.Portal.running_under_sandbox(), Xdp.Portal.running_under_flatpak())}
    if request["op"] == "open":
        return open_file(request)
    if request["op"] == "save":
        return save_file(request)
    if request["op"] == "read":
        with open(request["paths"][0]) as f:
            return {"text": f.read()}
    if request["op"] == "write":
        with open(request["paths"][0], "w") as f:
            f.write(request["text"])
        return {}
    raise ValueError(request["op"])


for text in sys.stdin:
    try:
        a = answer(json.loads(text))
    except Exception as e:
        a = {"err": "%s: %s" % (type(e).__name__, e)}
    print(json.dumps(a), flush=True)
