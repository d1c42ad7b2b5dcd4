;; RUN: rewrite %s -o %t
(module (import "env" "memory" (memory 1)))
