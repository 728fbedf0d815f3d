"""Child process of `run_with_bindings`: load the stub and the genuine bindings, then run a script.

    python bindings_child.py REQUEST.json

The request holds `bindings` (folder with `tensorrt_bindings/`), `stubs` (libraries to load),
`repo` (where the code under test is imported from), `paths` (folders that come before all others),
`script` (what to run) and `result` (where the script's variable `result` goes, as JSON). Not for
use by hand.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import runpy
import sys
from pathlib import Path


def load_bindings(folder: str, stubs: list[str]) -> None:
    """Make `import tensorrt` give the genuine bindings in `folder`.

    The stubs carry the sonames that the bindings' extension module asks for, so once they are
    loaded the dynamic linker looks for nothing on disk.
    """
    for stub in stubs:
        ctypes.CDLL(stub, mode=ctypes.RTLD_GLOBAL)
    # The bindings import this package, which would load the real libraries, if it is installed.
    sys.modules["tensorrt_libs"] = None  # type: ignore[assignment]
    sys.path.insert(0, folder)
    bindings = importlib.import_module("tensorrt_bindings")
    sys.modules["tensorrt"] = bindings
    # Else `import tensorrt.tensorrt` would initialise the extension module a second time.
    sys.modules["tensorrt.tensorrt"] = importlib.import_module("tensorrt_bindings.tensorrt")


def main(request_file: str) -> None:
    """Carry out one request.

    Raises:
        NameError: the script set no variable `result`.
    """
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    # This script's own folder has a module named tensorrt_bindings: it must not be importable.
    sys.path[0] = request["repo"]
    sys.path[:0] = request["paths"]
    load_bindings(request["bindings"], request["stubs"])
    namespace = runpy.run_path(request["script"])
    if "result" not in namespace:
        raise NameError("the code set no variable 'result', wanted one that JSON can hold")
    Path(request["result"]).write_text(json.dumps(namespace["result"]), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
