"""Super-resolution of 3D brain MRI with mDCSRN and WGAN-GP; the notebooks tell the story.

The core is read in the order in which data flows:

- manifest (which heads, which split), fetch (get their files), volumes (read and write), masks (head, brain);
- kspace (LR from HR, data consistency), prepare (one subject as a folder), patches (training pairs);
- networks (generator, discriminator), losses, training (schedule and both loops), checkpoints (resume);
- tiles and inference (whole volumes), metrics, evaluation (tidy tables), figures;
- files, profiles and provenance serve all of these.

Rooms: ``original`` has the course project's ways, ``extras`` synthetic heads, measures of detail, the
compiled engine and shipped weights, ``comparison`` other networks and the benchmark, ``scans`` the command
``sprl``, ``grading`` the checks of the whole study. Imports go from right to left alone; `make test` enforces
that.
"""

__version__ = "0.1.0"
