"""Base paths on a file system that TensorFlow learns from a plugin, compiled here: ``shelf://`` is a folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.servers import ServerProcess

#: Read only, and no more than a SavedModel needs. TensorFlow itself cuts scheme and host off, as nothing here says
#: otherwise (`translate_name`); what is left is a path of this machine.
_PLUGIN = r"""
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <string>
#include <vector>
#include "tensorflow/c/experimental/filesystem/filesystem_interface.h"
#include "tensorflow/c/tf_file_statistics.h"
#include "tensorflow/c/tf_status.h"

namespace {
bool Facts(const char* path, struct stat* facts, TF_Status* status) {
  bool found = stat(path, facts) == 0;
  TF_SetStatus(status, found ? TF_OK : TF_NOT_FOUND, found ? "" : path);
  return found;
}

void Init(TF_Filesystem*, TF_Status* status) { TF_SetStatus(status, TF_OK, ""); }
void Cleanup(TF_Filesystem*) {}

void Open(const TF_Filesystem*, const char* path, TF_RandomAccessFile* file, TF_Status* status) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  TF_SetStatus(status, fd < 0 ? TF_NOT_FOUND : TF_OK, fd < 0 ? path : "");
  file->plugin_file = new int(fd);
}
void Close(TF_RandomAccessFile* file) {
  int* fd = static_cast<int*>(file->plugin_file);
  if (*fd >= 0) close(*fd);
  delete fd;
}
int64_t Read(const TF_RandomAccessFile* file, uint64_t offset, size_t count, char* buffer, TF_Status* status) {
  ssize_t got = pread(*static_cast<int*>(file->plugin_file), buffer, count, offset);
  bool whole = got == static_cast<ssize_t>(count);
  TF_SetStatus(status, whole ? TF_OK : got < 0 ? TF_INTERNAL : TF_OUT_OF_RANGE, whole ? "" : "end of file");
  return got < 0 ? 0 : got;
}

void Exists(const TF_Filesystem*, const char* path, TF_Status* status) {
  struct stat facts;
  Facts(path, &facts, status);
}
void Stat(const TF_Filesystem*, const char* path, TF_FileStatistics* found, TF_Status* status) {
  struct stat facts;
  if (!Facts(path, &facts, status)) return;
  found->length = facts.st_size;
  found->mtime_nsec = facts.st_mtime * 1000000000LL;
  found->is_directory = S_ISDIR(facts.st_mode);
}
bool IsDirectory(const TF_Filesystem*, const char* path, TF_Status* status) {
  struct stat facts;
  if (!Facts(path, &facts, status)) return false;
  if (!S_ISDIR(facts.st_mode)) TF_SetStatus(status, TF_FAILED_PRECONDITION, path);
  return S_ISDIR(facts.st_mode);
}
int64_t Size(const TF_Filesystem*, const char* path, TF_Status* status) {
  struct stat facts;
  return Facts(path, &facts, status) ? facts.st_size : -1;
}
int Children(const TF_Filesystem*, const char* path, char*** entries, TF_Status* status) {
  DIR* folder = opendir(path);
  if (folder == nullptr) {
    TF_SetStatus(status, TF_NOT_FOUND, path);
    return -1;
  }
  std::vector<std::string> names;
  while (dirent* entry = readdir(folder)) {
    if (entry->d_name[0] != '.') names.push_back(entry->d_name);
  }
  closedir(folder);
  *entries = static_cast<char**>(malloc(names.size() * sizeof(char*)));
  for (size_t i = 0; i < names.size(); ++i) (*entries)[i] = strdup(names[i].c_str());
  TF_SetStatus(status, TF_OK, "");
  return names.size();
}
}  // namespace

void TF_InitPlugin(TF_FilesystemPluginInfo* info) {
  info->plugin_memory_allocate = malloc;
  info->plugin_memory_free = free;
  info->num_schemes = 1;
  auto* ops = info->ops = static_cast<TF_FilesystemPluginOps*>(calloc(1, sizeof(TF_FilesystemPluginOps)));
  TF_SetFilesystemVersionMetadata(ops);
  ops->scheme = strdup("shelf");
  ops->random_access_file_ops = static_cast<TF_RandomAccessFileOps*>(calloc(1, TF_RANDOM_ACCESS_FILE_OPS_SIZE));
  ops->random_access_file_ops->cleanup = Close;
  ops->random_access_file_ops->read = Read;
  auto* files = ops->filesystem_ops = static_cast<TF_FilesystemOps*>(calloc(1, TF_FILESYSTEM_OPS_SIZE));
  files->init = Init;
  files->cleanup = Cleanup;
  files->new_random_access_file = Open;
  files->path_exists = Exists;
  files->stat = Stat;
  files->is_directory = IsDirectory;
  files->get_file_size = Size;
  files->get_children = Children;
}
"""

#: Compiles argv[1] to argv[2].
_COMPILE = """
import subprocess, sys
import tensorflow as tf

source, library = sys.argv[1:]
flags = [*tf.sysconfig.get_compile_flags(), *tf.sysconfig.get_link_flags()]
subprocess.run(["g++", "-w", "-O0", "-fPIC", "-shared", source, "-o", library, *flags], check=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ to compile a file system with")
def test_models_on_a_file_system_of_a_plugin(server: Any, models_dir: Path, tmp_path: Path) -> None:
    source, library = tmp_path / "shelf.cc", tmp_path / "shelf.so"
    source.write_text(_PLUGIN)
    command = [sys.executable, "-c", _COMPILE, str(source), str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr[-3000:]
    running: ServerProcess = server(f"--custom_op_libraries={library}")
    running.put_model("m", f"shelf://here{models_dir}/half_plus_two")  # type: ignore[arg-type]
    running.wait_available("m", 2)
    answer = running.rest("POST", "/v1/models/m:predict", {"instances": [2.0]})
    assert answer == (200, {"predictions": [4.0]})
    assert running.model("m")["base_path"] == f"shelf://here{models_dir}/half_plus_two"
