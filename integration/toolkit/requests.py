"""What the programs have in common: requests on standard input, a JSON object a
line, an answer a line on standard output."""

import json
import os
import sys

from gi.repository import GLib


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


def read(request):
    with open(request["paths"][0]) as f:
        return {"text": f.read()}


def write(request):
    with open(request["paths"][0], "w") as f:
        f.write(request["text"])
    return {}


def environment(request):
    return {"text": os.environ.get(request["text"], "")}


def serve(**operations):
    """Answers requests by their "op" until there are no more."""
    operations = dict(operations, read=read, write=write, environment=environment)
    loop = GLib.MainLoop()

    def line(source, condition):
        text = sys.stdin.readline()
        if not text:
            loop.quit()
            return False
        try:
            request = json.loads(text)
            answer = operations[request["op"]](request)
        except Exception as e:
            answer = {"err": "%s: %s" % (type(e).__name__, e)}
        print(json.dumps(answer), flush=True)
        return True

    GLib.io_add_watch(sys.stdin, GLib.IO_IN | GLib.IO_HUP, line)
    loop.run()
