"""The unit as it is shipped, under a real systemd as PID 1, in namespaces of its own: `scripts/sandbox`.

`boot` makes the machine: an overlay over the root of this one (or over a root that `scripts/install --root` filled), its
own processes, network, cgroups and /run, and systemd as its first process. What is written there is gone with it. `job`
runs in it as root, outside of the unit's sandbox, and does with the daemon what an operator does: start, feed, reload,
kill, hang, misconfigure, stop.
"""
