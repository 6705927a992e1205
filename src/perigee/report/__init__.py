"""The report of one or several runs: read from their files, without a framework."""

from perigee.report.page import render as render
from perigee.report.reading import KeptRun as KeptRun
from perigee.report.reading import find_runs as find_runs
from perigee.report.reading import read_kept as read_kept
from perigee.report.table import table as table
from perigee.report.writing import FILE_NAME as FILE_NAME
from perigee.report.writing import write_page as write_page
from perigee.report.writing import write_report as write_report
