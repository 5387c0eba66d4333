#!/usr/bin/env python3
"""Stands for `nitro-cli`: same commands, same JSON, same error blocks, same exit statuses. A copy of it in a folder is one instance.

Beside the copy: `settings.json` (memory_mib, cpus: what the instance has set aside; slow_seconds of a start; errors: {command: [code, ...]}
to give in that order, null to work, with a + to do it and fail all the same), `calls.jsonl` (what was asked), `enclaves/` (what runs),
`console` (what they print). An image is a real EIF file whose second ramdisk is JSON: `boot`, the command line that stands for what boots
in it ({pcr0} to {pcr2} replaced), or nothing: then it hangs. An enclave is a process of its own that outlives this one, as the real
program's does.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ENCLAVES = HERE / "enclaves"
INSTANCE = "i-0123456789abcdef0"
TEXTS = {
    "E19": "File operation failure. Such error appears when the system fails to perform the requested file operations.",
    "E22": "Insufficient CPUs available in the pool. User provided `cpu-count` is {cpus}, more than the CPU pool.",
    "E26": "Insufficient memory requested. User provided `memory` is {memory} MB, too little for the EIF file.",
    "E27": "Insufficient memory available. User provided `memory` is {memory} MB, which is more than the available hugepage memory.",
    "E36": "Enclave boot failure. Such error appears when attempting to receive the `ready` signal from a freshly booted enclave.",
    "E39": "Enclave process connection failure. The enclave manager fails to connect to at least one enclave process.",
}


def fail(code: str, **values: Any) -> int:
    """As the real one does: the block of the code, where to read more, where the log is; after a failed start E39 too."""
    text = TEXTS.get(code, "Some other failure.").format_map({"cpus": "?", "memory": "?", **values})
    blocks = [(code, text)] if code == "E39" else [(code, text), ("E39", TEXTS["E39"])]
    for number, (name, said) in enumerate(blocks):
        print(f"[ {name} ] {said}\n", file=sys.stderr)
        print(f"For more details, please visit https://docs.aws.amazon.com/enclaves/latest/user/cli-errors.html#{name}\n", file=sys.stderr)
        print('If you open a support ticket, please provide the error log found at "/var/log/nitro_enclaves/err.log"', file=sys.stderr)
        if number == 0 and len(blocks) > 1:
            print("Failed connections: 1", file=sys.stderr)
    return int(code[1:])


def boot(path: str) -> list[str]:
    """What stands for booting the file's image."""
    from ledgerd.node.image import eif

    image = eif.read(Path(path).read_bytes())
    pcrs = {f"pcr{index}": value.hex() for index, value in enumerate(image.measure()[:3])}
    command = json.loads(bytes(image.all(eif.Kind.RAMDISK)[1])).get("boot") or [sys.executable, "-c", "import time; time.sleep(1000)"]
    return [pcrs.get(part.strip("{}"), part) for part in command]


def running() -> list[dict[str, Any]]:
    """Enclaves whose process lives."""
    found = []
    for path in sorted(ENCLAVES.glob("*.json")):
        enclave = json.loads(path.read_text())
        state = ""
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{enclave['ProcessID']}/stat").read_text().rpartition(") ")[2][:1]
        if state in ("", "Z"):
            path.unlink(missing_ok=True)
        else:
            found.append(enclave)
    return found


def run_enclave(options: dict[str, str], settings: dict[str, Any]) -> int:
    memory, cpus = int(options["--memory"]), int(options["--cpu-count"])
    others = running()
    print("Start allocating memory...", file=sys.stderr)
    try:
        command = boot(options["--eif-path"])
    except OSError:
        return fail("E19")
    if 4 * Path(options["--eif-path"]).stat().st_size > memory << 20:
        return fail("E26", memory=memory)
    if cpus > settings["cpus"] - sum(other["NumberOfCPUs"] for other in others):
        return fail("E22", cpus=cpus)
    if memory > settings["memory_mib"] - sum(other["MemoryMiB"] for other in others):
        return fail("E27", memory=memory)
    time.sleep(settings.get("slow_seconds", 0))
    cid = int(options.get("--enclave-cid", 16 + len(others)))
    console = (HERE / "console").open("ab")
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True)
    enclave = {
        "EnclaveName": options["--enclave-name"],
        "EnclaveID": f"{INSTANCE}-enc{child.pid:016x}",
        "ProcessID": child.pid,
        "EnclaveCID": cid,
        "NumberOfCPUs": cpus,
        "CPUIDs": list(range(1, 1 + cpus)),
        "MemoryMiB": memory,
    }
    ENCLAVES.mkdir(exist_ok=True)
    state = {**enclave, "State": "RUNNING", "Flags": "DEBUG_MODE" if "--debug-mode" in options else "NONE"}
    (ENCLAVES / f"{child.pid}.json").write_text(json.dumps(state))
    print(f"Started enclave with enclave-cid: {cid}, memory: {memory} MiB, cpu-ids: {enclave['CPUIDs']}")
    print(json.dumps(enclave, indent=2))
    return 0


def main(arguments: list[str]) -> int:
    settings = json.loads((HERE / "settings.json").read_text())
    with (HERE / "calls.jsonl").open("a") as calls:
        calls.write(json.dumps([time.monotonic(), *arguments]) + "\n")
    command, rest = arguments[0], arguments[1:]
    options: dict[str, str] = {}
    while rest:
        name = rest.pop(0)
        options[name] = "" if name == "--debug-mode" else rest.pop(0)
    if settings.get("errors", {}).get(command):
        code = settings["errors"][command].pop(0)
        (HERE / "settings.json").write_text(json.dumps(settings))
        if code and code.endswith("+"):
            run_enclave(options, settings)
        if code:
            return fail(code[:3], memory=options.get("--memory", ""), cpus=options.get("--cpu-count", ""))
    if command == "--version":
        print(f"Nitro CLI {settings.get('version', '1.3.4')}")
    elif command == "run-enclave":
        return run_enclave(options, settings)
    elif command == "describe-enclaves":
        print(json.dumps(running(), indent=2))
    elif command == "terminate-enclave":
        for enclave in running():
            if enclave["EnclaveID"] == options["--enclave-id"]:
                os.kill(enclave["ProcessID"], signal.SIGKILL)
                while enclave in running():
                    time.sleep(0.001)
                print(f"Successfully terminated enclave {enclave['EnclaveID']}.", file=sys.stderr)
                print(json.dumps({"EnclaveName": enclave["EnclaveName"], "EnclaveID": enclave["EnclaveID"], "Terminated": True}, indent=2))
                return 0
        return fail("E39")
    elif command == "console":
        print("Connecting to the console for enclave...", flush=True)
        sys.stdout.buffer.write((HERE / "console").read_bytes())
    else:
        print(f"error: Found argument '{command}' which wasn't expected, or isn't valid in this context", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
