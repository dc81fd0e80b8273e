"""Every system call of the durable path, one at a time: killed in front of it, failed, cut short. Then counted.

- `subjects`: the code under test, the real receiver and the real way of an uploader, on a script.
- `driver`: a warm process that forks one subject for each case; `strace` attaches to the fork and makes the fault.
- `trace`: what `strace` saw. `plan`: which faults there are to make. `oracle`: what must hold after each of them.
- `enumeration`: runs the cases. `report`: counts them.
"""
