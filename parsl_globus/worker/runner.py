def parsl_globus_runner(header, function, arguments):
    """Run one call of a Parsl app on any worker.

    This file is registered as the source of one function, so it stands alone, stays under 4 kB (stock agents send it
    with every task) and keeps its state in `sys.modules`, as its namespace is new each time.

    Args:
        header: JSON text: Python ("any" for source) and Parsl of the sender, digest of the function.
        function: The pickled function, compressed, in base64.
        arguments: The pickled pair of positional and keyword arguments in base64.

    Returns:
        A record tagged by `kind`: `value`, `raised`, `mismatch` or `broken`; texts only, so that JSON carries it.
        A `value` that is an exception wrapped by Parsl has its traceback as `raised`; a monitored task's record has
        `monitoring`.
    """
    import base64
    import io
    import json
    import pickle
    import sys
    import traceback
    import types
    import zlib

    import dill

    base64 = sys.modules.get("pybase64", base64)  # faster

    def encode(value):
        ours = sys.modules.get("_parsl_globus_by_value_1")  # there if something of the sender's own came
        try:
            data = ours.encode(value) if ours else pickle.dumps(value, protocol=4)
        except Exception:
            data = dill.dumps(value, protocol=4)
        return base64.b64encode(data).decode("ascii")

    def broken(what):
        return {"kind": "broken", "what": what, "text": traceback.format_exc()}

    sender = json.loads(header)
    python = "%d.%d" % sys.version_info[:2]
    if sender["python"] not in (python, "any"):  # pickled code of another one can crash the interpreter
        try:
            from importlib.metadata import version

            parsl = version("parsl")
        except Exception:
            parsl = "unknown"
        return {"kind": "mismatch", "worker": {"python": python, "parsl": parsl}}

    home = sys.modules.setdefault("_parsl_globus_functions", types.ModuleType("_parsl_globus_functions"))
    known = vars(home).setdefault("calls", {})
    found = known.get(sender["function"])
    if found is None:
        radios = []

        def radio(source):  # in place of the sender's, whose class may not be here
            exec(source, space := vars(types.ModuleType("radio")))
            radios.append(space["Radio"]())
            return radios[-1]

        try:
            unpickler = dill.Unpickler(io.BytesIO(zlib.decompress(base64.b64decode(function))))
            unpickler.persistent_load = radio
            found = unpickler.load(), radios
        except Exception:
            return broken("the function")
        while len(known) >= 64:
            del known[next(iter(known))]
        known[sender["function"]] = found
    call, radios = found
    try:
        args, kwargs = dill.loads(base64.b64decode(arguments))
    except Exception:
        return broken("an argument")

    def run():
        try:
            value = call(*args, **kwargs)
        except (Exception, SystemExit) as error:
            record = {"kind": "raised", "data": None, "text": traceback.format_exc()}
            try:
                record["data"] = encode(error)
            except Exception:
                pass  # the text tells it
            return record
        record = {"kind": "value"}
        if type(value).__name__ == "RemoteExceptionWrapper":  # so Parsl's apps return what they raised
            try:
                raised = value.e_value  # told first and as text, for those who must not unpickle
                record["raised"] = "".join(traceback.format_exception(type(raised), raised, raised.__traceback__))
            except Exception:
                pass  # the data has it
        try:
            record["data"] = encode(value)
        except Exception:
            return broken("the result")
        return record

    record = {}
    for each in radios:
        each.open()
    try:
        record = run()
    finally:
        for each in radios:
            record["monitoring"] = each.close(len(record.get("data") or ""))
    return record
