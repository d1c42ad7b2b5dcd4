;; RUN: rewrite %s -o %t --export-commit commit
(module)
