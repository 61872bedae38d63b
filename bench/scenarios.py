"""What is started for a row, when a row first needs it, and stopped when the last row of its scenario is done."""

import tempfile
from pathlib import Path

import changes
import check
import heddle
import peers
from measure import BROKEN, say


class Stage:
    """The origin, and the subjects that run."""

    def __init__(self, folder):
        self.folder = folder
        folder.chmod(0o711)  # workers of nginx may be of another user
        self.certificates = peers.Certificates(folder / "certificates")
        self._origin, self.ports = peers.origin(folder / "origin")
        self.origin = peers.Target(self.ports["http1"])
        self._subjects, self._meshes = {}, {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.clear()
        self._origin.stop()

    def clear(self):
        """Stops all subjects."""
        for subject in self._subjects.values():
            if not isinstance(subject, BROKEN):
                subject.stop()
        for mesh in self._meshes.values():
            if not isinstance(mesh, BROKEN):
                mesh.stop()
        self._subjects, self._meshes = {}, {}

    def subject(self, row, name):
        """The running subject of a row; starts and checks it at first. One that could not be started stays so."""
        key = (row.scenario, row.kind, name)
        if key not in self._subjects:
            say(f"{row.scenario} {row.kind}: starting {name}")
            try:
                self._subjects[key] = self._start(*key)
            except BROKEN as broken:
                self._subjects[key] = broken
        if isinstance(self._subjects[key], BROKEN):
            raise self._subjects[key]
        return self._subjects[key]

    def _start(self, scenario, kind, name):
        if scenario not in ("one", "two"):
            return SPECIAL[scenario](self, name)
        if name == "heddle":
            running = self.mesh(scenario).view(kind, 1 if scenario == "one" else 2)
        elif scenario == "one":
            running = peers.one_hop(name, kind, self.folder, self.ports)
        else:
            running = peers.two_hops(name, kind, self.folder, self.ports, self.certificates)
        try:
            check.answers(running)
            if scenario == "two":
                check.mutual_tls(running, self.certificates)
                if name != "heddle":
                    check.first_proxy_verifies(name, kind, self.folder, self.ports, self.certificates)
        except BaseException:
            running.stop()
            raise
        return running

    def mesh(self, scenario):
        """The mesh of a scenario, which serves all kinds."""
        start = {
            "one": lambda where: heddle.one_hop(where, self.ports),
            "two": heddle.two_hops,
            "changes": lambda where: changes.Changing(where, self.ports["http1"]),
        }
        if scenario not in self._meshes:
            try:
                folder = Path(tempfile.mkdtemp(prefix="mesh-", dir=self.folder))
                folder.chmod(0o711)
                self._meshes[scenario] = start[scenario](folder / "m")
            except BROKEN as broken:
                self._meshes[scenario] = broken
        if isinstance(self._meshes[scenario], BROKEN):
            raise self._meshes[scenario]
        return self._meshes[scenario]


def _known(stage, name):
    """`heddle N services`: so many in the mesh besides the ten that are used."""
    count = int(name.split()[1].replace(",", ""))
    return heddle.Known(stage.folder / f"known-{count}", stage.ports["http1"], count - heddle.Known.USED)


def _workers(stage, name):
    """`heddle N workers`: callers of one mesh."""
    count = int(name.split()[1])
    return stage.mesh("one").another_caller(stage.folder / f"caller-{count}", count, count)


def _changes(stage, name):
    """`heddle quiet` and `heddle N changes/s`: one mesh."""
    return changes.View(stage.mesh("changes"), name != "heddle quiet")


# Rows whose subjects are all Heddle's, by scenario.
SPECIAL = {"known": _known, "workers": _workers, "changes": _changes}
