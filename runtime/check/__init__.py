"""Black-box conformance of any training or processing image: does it honour the platform's contract?

For a developer's machine with a Docker engine; nothing here runs inside our images. The parts:

- `clause`: one thing that an image has to do, how it is tried, and the verdict;
- `facts`, `layers`: what the engine tells about an image, and what lies in its layers;
- `lab`: trials, each a container or two with the files that the platform writes;
- `programs`: what we give to images that run a job's own program; they run in any Python 3.6 or newer;
- `clauses`: all of them, by subject;
- `runner`: several at a time, one cause told once;
- `report`: table, JSON, JUnit.
"""
