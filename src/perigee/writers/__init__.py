"""Writers: hooks that show or store what training reports, one module per kind of output."""

from perigee.writers._replaced import replace_file as replace_file
from perigee.writers.csv import Csv as Csv
from perigee.writers.fan_out import Writers as Writers
from perigee.writers.json_lines import JsonLines as JsonLines
from perigee.writers.json_lines import read_json_lines as read_json_lines
from perigee.writers.run_directory import RunDirectory as RunDirectory
from perigee.writers.run_directory import read_run as read_run
from perigee.writers.samples import SampleFiles as SampleFiles
from perigee.writers.tensorboard import TensorBoard as TensorBoard
from perigee.writers.terminal import Terminal as Terminal
