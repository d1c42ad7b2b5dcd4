;; RUN: verify %s
(module (memory 65536 65536))
