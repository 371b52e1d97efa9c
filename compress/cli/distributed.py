"""Joins the processes of several hosts, if the user asks for it."""

import jax

from compress.cli import flags

# What can be started by several processes at once.
_COMMANDS = ("run",)


def start_distributed(command: str) -> None:
    """Connects this process with the others, before JAX looks for its devices.

    Raises:
      ValueError: If the flags do not fit together, or nobody is found.
    """
    given = {
        "coordinator": flags.COORDINATOR.value,
        "num_processes": flags.NUM_PROCESSES.value,
        "process_id": flags.PROCESS_ID.value,
    }
    names = [f"--{name}" for name, value in given.items() if value is not None]
    if not flags.DISTRIBUTED.value:
        if names:
            raise ValueError(
                f"{', '.join(names)}: only for several processes. Add --distributed, "
                "or leave it out."
            )
        return
    _check(command, given, names)
    try:
        jax.distributed.initialize(
            given["coordinator"], given["num_processes"], given["process_id"]
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"--distributed: the processes did not find each other ({error}). Start "
            "one per host by Slurm, GKE or Open MPI, or give each "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I."
        ) from error


def _check(command: str, given: dict[str, str | int | None], names: list[str]) -> None:
    if command not in _COMMANDS:
        raise ValueError(
            f"--distributed: {command} is for one process; only {_COMMANDS[0]} trains "
            "with several. Leave it out."
        )
    if names and len(names) < len(given):
        missing = [f"--{name}" for name, value in given.items() if value is None]
        raise ValueError(
            f"--distributed: {', '.join(names)} without {', '.join(missing)}. Give all "
            "three, or none where the environment says it."
        )
    number, count = given["process_id"], given["num_processes"]
    if isinstance(number, int) and isinstance(count, int) and number >= count:
        raise ValueError(
            f"--process_id={number} with --num_processes={count}: they are counted "
            f"from 0. Use 0 to {count - 1}."
        )
    port = str(given["coordinator"]).rpartition(":")[2]
    if given["coordinator"] is not None and not port.isdigit():
        raise ValueError(
            f"--coordinator={given['coordinator']}: has no port. Write HOST:PORT, such "
            "as node0:1234."
        )
