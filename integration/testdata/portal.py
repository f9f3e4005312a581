# Calls methods of the portals one after the other, as an app does that
# uses GLib, and prints the results: METHOD ARGUMENTS [METHOD ARGUMENTS ...].
# METHOD is Interface.Method, ARGUMENTS a tuple as GVariant's text; in it TOKEN
# stands for the handle token of a request, PNG for a picture, GOT for the token
# of the request before, and FILE(path) for a descriptor. The method of a request
# begins with "?".
import os
import re
import sys

import gi

gi.require_version("GdkPixbuf", "2.0")
from gi.repository import GdkPixbuf, Gio, GLib

bus = Gio.bus_get_sync(Gio.BusType.SESSION)
loop = GLib.MainLoop()
words = sys.argv[1:]
got = ""
for n, (method, text) in enumerate(zip(words[::2], words[1::2])):
    request = method.startswith("?")
    interface, member = method.lstrip("?").split(".")
    token = "call%d_%d" % (os.getpid(), n)
    pixels = GdkPixbuf.Pixbuf.new(GdkPixbuf.Colorspace.RGB, True, 8, 64, 64)
    pixels.fill(0x3366CCFF)
    picture = pixels.save_to_bufferv("png", [], [])[1]
    text = text.replace("TOKEN", token).replace("GOT", got)
    text = text.replace("PNG", "<('bytes', <%s>)>" % list(bytearray(picture)).__repr__().replace("[", "[byte ", 1))
    files = Gio.UnixFDList()
    named = re.search(r"FILE\((.*?)\)", text)
    if named:
        with open(named.group(1), "rb") as f:
            text = text.replace(named.group(0), "handle %d" % files.append(f.fileno()))
    result = {}

    def response(_c, _s, _p, _i, _m, parameters):
        result["code"], result["values"] = parameters.unpack()
        loop.quit()

    sender = bus.get_unique_name()[1:].replace(".", "_")
    bus.signal_subscribe("org.freedesktop.portal.Desktop", "org.freedesktop.portal.Request", "Response",
                         "/org/freedesktop/portal/desktop/request/%s/%s" % (sender, token), None, 0, response)
    service = ("Documents", "documents") if interface == "Documents" else ("Desktop", "desktop")
    reply, _ = bus.call_with_unix_fd_list_sync("org.freedesktop.portal." + service[0], "/org/freedesktop/portal/" + service[1],
                          "org.freedesktop.portal." + interface, member, GLib.Variant.parse(None, text),
                          None, 0, 20000, files)
    if request:
        GLib.timeout_add_seconds(20, loop.quit)
        loop.run()
        if result.get("code") != 0:
            sys.exit("%s: %s" % (method, result))
        got = result["values"].get("token", "")
        print(method, sorted(result["values"]))
    else:
        print(method, reply.unpack())
