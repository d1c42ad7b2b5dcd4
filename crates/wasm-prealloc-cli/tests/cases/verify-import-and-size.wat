;; RUN: verify %s --pages 1024
(module (import "env" "memory" (memory 1 2)) (memory 1024 1024) (memory 65536 65536) (memory 512 512))
