;; RUN: verify %s
(component
  (core module (memory 65536 65536))
  (core module (memory 17)))
