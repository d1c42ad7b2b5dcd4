;; RUN: run --pages 16 %s
(module (memory 1) (func (export "_start") unreachable))
