;; RUN: run --quiet --pages 16 --slots 1 %s
(module (memory 16 16) (memory 16 16) (func (export "_start") unreachable))
