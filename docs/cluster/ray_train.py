"""`ulzoo train` on a Ray cluster: Ray allocates the machines, torchrun starts the processes on each.

    python docs/cluster/ray_train.py --nodes 2 --gpus 8 [--address auto] -- SPEC --out DIR [options of `ulzoo train`]

The data and DIR must be on a file system that all machines share. If a machine is lost, the attempt ends; the next
attempt resumes from the last checkpoint, on another machine if one is available.
"""

import argparse
import os
import socket
import subprocess
import sys

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy


@ray.remote(max_retries=0)
def address() -> tuple[str, int]:
    """Return the rendezvous host and port on the first machine."""
    with socket.socket() as sock:
        sock.bind(("", 0))
        return ray.util.get_node_ip_address(), sock.getsockname()[1]


@ray.remote(max_retries=0)
def run(node: int, nodes: int, processes: int, host: str, port: int, folder: str, arguments: list[str]) -> int:
    """Run the processes of one machine and return the exit status of torchrun."""
    shape = [f"--nnodes={nodes}", f"--node-rank={node}", f"--nproc-per-node={processes}"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *shape, f"--master-addr={host}", f"--master-port={port}"]
    return subprocess.run([*launcher, "-m", "ulzoo", "train", *arguments, "--resume"], cwd=folder).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0, help="GPUs per machine, one process per GPU; 0 trains on CPUs")
    parser.add_argument("--processes", type=int, default=1, help="processes per machine when training on CPUs")
    parser.add_argument("--attempts", type=int, default=3)
    parser.add_argument("--address")
    parser.add_argument("arguments", nargs="+", metavar="SPEC --out DIR ...")
    options = parser.parse_args()
    ray.init(options.address, include_dashboard=None if options.address else False)
    processes = options.gpus or options.processes
    resources = {"CPU": float(processes)} | ({"GPU": float(options.gpus)} if options.gpus else {})
    status = 1
    for attempt in range(options.attempts):
        group = placement_group([resources] * options.nodes, strategy="STRICT_SPREAD" if options.nodes > 1 else "PACK")
        ray.get(group.ready())

        def place(task, index, group=group):
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
            return task.options(num_cpus=processes, num_gpus=options.gpus, scheduling_strategy=strategy)

        host, port = ray.get(place(address, 0).remote())
        arguments = (options.nodes, processes, host, port, os.getcwd(), options.arguments)
        tasks = [place(run, index).remote(index, *arguments) for index in range(options.nodes)]
        try:
            status = max(map(abs, ray.get(tasks)))
        except ray.exceptions.RayError as error:
            print(f"attempt {attempt + 1}: {error}", file=sys.stderr)
            for task in tasks:
                ray.cancel(task, force=True)
        remove_placement_group(group)
        if status in (0, 2):
            break
    sys.exit(status)


if __name__ == "__main__":
    main()
