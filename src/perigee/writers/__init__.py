"""Writers: hooks that show or keep what training reports, one kind of output a file."""

from perigee.writers.json_lines import JsonLines as JsonLines
from perigee.writers.json_lines import read_json_lines as read_json_lines
from perigee.writers.run_directory import RunDirectory as RunDirectory
from perigee.writers.terminal import Terminal as Terminal
