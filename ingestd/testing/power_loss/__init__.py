"""Power loss: the real spool and directory store, recorded once, and every disk that a crash could have left behind.

`scripts/power-loss` runs it. `recorder` writes down what the real code asks of the disk, `model` builds the disks that
a loss of power after any of these calls may leave, and `oracle` lets the real recovery start from each of them. In the
recorded lives processes are killed, too: what a dead one made visible but did not sync is met by those that come after.

What the model lets a disk do is what POSIX lets it do, within what every journalling file system keeps:

- Bytes are safe after fdatasync or fsync of their file, and so is its length. Before that each sector of 512 bytes is
  old or new on its own (a page is torn, or missing and read as zeros), and the length is anything in between: write-back
  goes in any order, and sectors are all that a drive writes as a whole.
- Names (create, rename, link, unlink, mkdir, rmdir) are safe after fsync of a directory that they touch. Before that
  any of them may be missing, in any combination, with two limits. What happens to one name happens in order. A rename is
  one step: the old name or the new one, never both, never none. Journals keep these two; ext2 would not.
- fsync of a directory saves everything that touches it, and what that needs: the earlier steps of the same names and
  the directories above. It saves no bytes of files, and fdatasync of a file saves no name.
- A file needs no sync of the name that it was made under: a safe later name is enough to find it.

Not modelled: a disk that acknowledges a flush it did not do, modes and times, a file system without a journal.
"""
