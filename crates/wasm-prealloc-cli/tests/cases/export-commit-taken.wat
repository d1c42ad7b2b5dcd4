;; RUN: rewrite %s -o %t --export-commit commit
(module
  (memory 1)
  (func (export "commit")))
