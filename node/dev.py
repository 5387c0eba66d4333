"""A whole service on one machine, for development: what is made and started, in which order, and what follows.

Laws: what can be refused is refused before anything is made. Every process is a child that dies with this one (PR_SET_PDEATHSIG), in a
session of its own, so that Ctrl-C reaches only us and we end the others in order. A node that dies later is told of, not restarted: a
node never comes back, and the service goes on while a majority lives. Attestation is simulated, and every word about it says so.
Not here: the files (`node.dev_folder`), the processes (`node.dev_processes`), options and what is printed (`node.cli.dev`), one node
(`node.lifecycle`).
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from ledgerd.node import dev_public_name
from ledgerd.node.child import dies_with_us
from ledgerd.node.config import VM_MEMORY_MB_DEFAULT, VM_QEMU_DEFAULT, Measurement, VmConfig
from ledgerd.node.dev_folder import DevOptions, check_ports, configuration_of, make_common, take_directory
from ledgerd.node.dev_processes import (
    POLL_SECONDS,
    STOP_SECONDS_MAX,
    Child,
    DevelopmentError,
    Stop,
    StoppedError,
    end,
    send_signal,
    tell_of_the_dead,
    wait_for,
)
from ledgerd.node.dev_public_name import DevPublicName, Shown
from ledgerd.node.measure import check_application, measure

START_SECONDS_MAX: Final = 30.0  # a few suffice; a machine that is busy with something else may need more
VM_START_SECONDS_MAX: Final = 300.0  # three on two cores take 30; each is a computer in software
WATCH_SECONDS: Final = 0.1


class Opened(NamedTuple):
    """A service that is open.

    Attributes:
        directory: Where everything lies.
        urls: Of the nodes, in their order.
        primary: Of the primary.
        isolation: What keeps the enclave processes apart from their hosts.
        seconds: From the start to now.
        public_name: How to see the public name at work; None without one.
    """

    directory: Path
    urls: tuple[str, ...]
    primary: str
    isolation: str
    seconds: float
    public_name: Shown | None = None


def run_dev(options: DevOptions, opened: Callable[[Opened], None], tell: Callable[[str], None]) -> int:
    """Start a service, run the command or wait to be told to stop, and end everything.

    Args:
        options: What to run.
        opened: Called once, when the service is open.
        tell: Called with one line whenever people should know something.
    Returns: The command's status (128 + signal if one ended it); without a command 0 when told to stop, 1 when all nodes ended.
    Raises: ConfigurationError: Something is wrong with the options. DevelopmentError: The service did not come up.
    """
    begun = time.monotonic()
    here = Path.cwd()
    check_ports(options)
    if options.public_name is not None:
        dev_public_name.check(options.public_name)
    options, measurement = _measure(options, here, tell)
    directory, temporary = take_directory(options.directory)
    stop = Stop()
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, stop) for number in signals}
    nodes: list[Child] = []
    others: list[Child] = []
    try:
        pcrs = {"pcr0": measurement.pcr0, "pcr1": measurement.pcr1, "pcr2": measurement.pcr2}
        make_common(directory, pcrs)
        name = None
        if options.public_name is not None:
            name = _begin_name(DevPublicName(directory, options.public_name, measurement), directory, others, stop)
        service = _start(options, directory, nodes, stop, begun, name)
        if name is not None:
            service = service._replace(public_name=_complete_name(name, options, nodes, stop))
        if options.bundle is not None:
            _install(service, options.bundle)
        opened(service)
        if options.command is not None:
            return _run_command(options.command, service, nodes, stop, tell)
        status = _watch(nodes, stop, tell)
        tell(f"stopping; {'nothing stays behind' if temporary else f'everything is kept in {directory}, but no node resumes'}")
        return status
    except DevelopmentError as error:
        temporary = False
        raise DevelopmentError(f"{error}\nEverything is kept in {directory}") from None
    except StoppedError:
        tell("stopping before the service was open")
        return 0 if options.command is None else 128 + signal.SIGINT
    finally:
        end(nodes)
        end(others)
        if temporary:
            shutil.rmtree(directory, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)


def _install(service: Opened, bundle: dict[str, Any]) -> None:
    from ledgerd.node import dev_application  # noqa: PLC0415 (loads the client)

    refused = dev_application.install(service.primary, service.directory / "common", bundle)
    if refused is not None:
        raise DevelopmentError(f"the application was not installed: {refused}")


def _measure(options: DevOptions, here: Path, tell: Callable[[str], None]) -> tuple[DevOptions, Measurement]:
    """What the nodes will be measured as; and the options, with the image where there is one."""
    if options.launcher != "vm":
        check_application(options.app, here)
        line = measure(options.app, here)
        return options, Measurement(line.pcr0.hex(), line.pcr1.hex(), line.pcr2.hex())
    from ledgerd.node.image.lock import default_folder  # noqa: PLC0415 (only here)
    from ledgerd.node.vm import preflight  # noqa: PLC0415
    from ledgerd.node.vm.images import application  # noqa: PLC0415
    from ledgerd.node.vm.launcher import VmLauncher, refuse  # noqa: PLC0415

    def say(step: str) -> None:
        tell(f"{step} ...")

    refuse([preflight.program(VM_QEMU_DEFAULT), preflight.memory(VM_MEMORY_MB_DEFAULT, options.nodes)])
    if options.image is None:
        check_application(options.app, here)
    image = (options.image or application(options.app, here, default_folder(), say)).resolve()
    launcher = VmLauncher(VmConfig(image), default_folder(), say=say)
    launcher.check()
    return options._replace(image=image), launcher.measurement()


def _begin_name(name: DevPublicName, directory: Path, others: list[Child], stop: Stop) -> DevPublicName:
    """Start the simulated KMS, which nodes are told of."""
    process = name.begin((directory / "common" / "simulated_root_cert.pem").read_text())
    others.append(Child("the simulated KMS", name.folder, process))
    wait_for(name.ready, others, stop, time.monotonic() + START_SECONDS_MAX, "an endpoint of KMS")
    return name


def _complete_name(name: DevPublicName, options: DevOptions, nodes: list[Child], stop: Stop) -> Shown:
    """Certify the first node's key, and write down how to start the node that serves with it."""
    deadline = time.monotonic() + START_SECONDS_MAX
    wait_for(lambda: "yes" if name.certify() else None, nodes, stop, deadline, "a request for the public name's certificate")
    address = nodes[0].read("rpc_address")
    assert address is not None, "the service is open"
    number = options.nodes  # of its port
    lines = configuration_of(options, number, address).splitlines()
    return name.write_next("\n".join([*lines, *name.section(0), ""]))


def _start(options: DevOptions, directory: Path, nodes: list[Child], stop: Stop, begun: float, name: DevPublicName | None = None) -> Opened:
    seconds = VM_START_SECONDS_MAX if options.launcher == "vm" else START_SECONDS_MAX
    deadline = time.monotonic() + seconds
    nodes.append(_launch(options, directory, 0, None, name))
    from ledgerd.network.client import Budget, Client  # noqa: PLC0415 (loads while the first node does)
    from ledgerd.network.client.errors import ClientError  # noqa: PLC0415

    first = nodes[0]
    address = wait_for(lambda: first.read("rpc_address"), nodes, stop, deadline, "an address")
    certificate = wait_for(lambda: first.read("service_cert.pem"), nodes, stop, deadline, "a service certificate")
    service_cert = directory / "common" / "service_cert.pem"
    service_cert.write_text(certificate + "\n")
    nodes.extend(_launch(options, directory, number, address, name) for number in range(1, options.nodes))
    urls = []
    node_ids: dict[str, str] = {}
    primary = ""
    for node in nodes:
        url = "https://" + wait_for(lambda node=node: node.read("rpc_address"), nodes, stop, deadline, "an address")  # type: ignore[misc]
        urls.append(url)
        patience = 10.0 if options.launcher == "vm" else 1.0
        budget = Budget(seconds=patience, attempts=1, attempt_seconds=patience)
        with Client(url, service_certificate=service_cert, budget=budget) as client:

            def ready(client: Client = client, url: str = url) -> str | None:
                try:
                    client.get("/node/ready/app")
                    node_ids[client.get("/node/state").json()["node_id"]] = url
                    return str(client.get("/node/network").json().get("primary_id") or "") or None
                except ClientError:
                    return None

            primary = wait_for(ready, nodes, stop, deadline, "an open service")
    isolation = first.read("isolation") or "unknown"
    return Opened(directory, tuple(urls), node_ids.get(primary, urls[0]), isolation, time.monotonic() - begun)


def _launch(options: DevOptions, directory: Path, number: int, target: str | None, public_name: DevPublicName | None) -> Child:
    name = f"node{number}"
    folder = directory / name
    folder.mkdir(mode=0o700)
    configuration = folder / "node.toml"
    section = [] if public_name is None else [*public_name.section(number), ""]
    configuration.write_text("\n".join([*configuration_of(options, number, target).splitlines(), *section, ""]))
    with open(folder / "output.log", "wb") as log:
        process = subprocess.Popen(  # noqa: S603 (our own program)
            [sys.executable, "-P", "-m", "ledgerd.node.cli.main", "node", "join" if target else "start", "--config", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=dev_public_name.environment_of(public_name),
            start_new_session=True,
            preexec_fn=dies_with_us(signal.SIGTERM),  # noqa: PLW1509 (this process has one thread)
        )
    return Child(name, folder, process)


def _watch(nodes: list[Child], stop: Stop, tell: Callable[[str], None]) -> int:
    while not stop.asked:
        tell_of_the_dead(nodes, tell)
        if all(node.process.poll() is not None for node in nodes):
            tell("all nodes have ended")
            return 1
        time.sleep(WATCH_SECONDS)
    return 0


def _run_command(command: str, service: Opened, nodes: list[Child], stop: Stop, tell: Callable[[str], None]) -> int:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}",  # `ledgerd` itself is found
        "LEDGERD_URL": service.primary,
        "LEDGERD_URLS": ",".join(service.urls),
        "LEDGERD_DIR": str(service.directory),
    }
    # Without a terminal it leads a group of its own, so that what it leaves in the background ends with it.
    own_group = not sys.stdin.isatty()
    process = subprocess.Popen(  # noqa: S603 (the caller's own command, read by the shell as if typed)
        ["/bin/sh", "-c", command],
        env=environment,
        process_group=0 if own_group else None,
        preexec_fn=dies_with_us(signal.SIGTERM),  # noqa: PLW1509
    )
    try:
        while process.poll() is None and not stop.asked:
            tell_of_the_dead(nodes, tell)
            time.sleep(POLL_SECONDS)
        if process.poll() is None:
            send_signal(process, signal.SIGTERM, group=own_group)
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                send_signal(process, signal.SIGKILL, group=own_group)
    finally:
        if own_group:
            send_signal(process, signal.SIGKILL, group=True)
        status = process.wait()
    return status if status >= 0 else 128 - status
