"""ulzoo train on a Ray cluster: Ray finds the machines, torchrun runs the processes on each.

    python docs/cluster/ray_train.py --nodes 2 --gpus 8 [--address auto] -- SPEC --out DIR [options of `ulzoo train`]

Run it where the data and DIR are on a file system that all machines see. A machine that is lost ends the attempt; the
next one, on another machine if there is one, goes on from the last checkpoint.
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
    """Host and port on the first machine, for the others to meet at."""
    with socket.socket() as free:
        free.bind(("", 0))
        return ray.util.get_node_ip_address(), free.getsockname()[1]


@ray.remote(max_retries=0)
def run(node: int, nodes: int, processes: int, host: str, port: int, folder: str, arguments: list[str]) -> int:
    """One machine's part; its exit status."""
    shape = [f"--nnodes={nodes}", f"--node-rank={node}", f"--nproc-per-node={processes}"]
    launcher = [sys.executable, "-m", "torch.distributed.run", *shape, f"--master-addr={host}", f"--master-port={port}"]
    return subprocess.run([*launcher, "-m", "ulzoo", "train", *arguments, "--resume"], cwd=folder).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0, help="of each machine, a process for each; 0 trains on CPUs")
    parser.add_argument("--processes", type=int, default=1, help="of each machine, without GPUs")
    parser.add_argument("--attempts", type=int, default=3)
    parser.add_argument("--address")
    parser.add_argument("arguments", nargs="+", metavar="SPEC --out DIR ...")
    options = parser.parse_args()
    ray.init(options.address, include_dashboard=None if options.address else False)
    processes = options.gpus or options.processes
    needs = {"CPU": float(processes)} | ({"GPU": float(options.gpus)} if options.gpus else {})
    status = 1
    for attempt in range(options.attempts):
        group = placement_group([needs] * options.nodes, strategy="STRICT_SPREAD" if options.nodes > 1 else "PACK")
        ray.get(group.ready())

        def placed(task, index, group=group):
            where = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
            return task.options(num_cpus=processes, num_gpus=options.gpus, scheduling_strategy=where)

        host, port = ray.get(placed(address, 0).remote())
        told = (options.nodes, processes, host, port, os.getcwd(), options.arguments)
        parts = [placed(run, index).remote(index, *told) for index in range(options.nodes)]
        try:
            status = max(map(abs, ray.get(parts)))
        except ray.exceptions.RayError as error:
            print(f"attempt {attempt + 1}: {error}", file=sys.stderr)
            for part in parts:
                ray.cancel(part, force=True)
        remove_placement_group(group)
        if status in (0, 2):
            break
    sys.exit(status)


if __name__ == "__main__":
    main()
