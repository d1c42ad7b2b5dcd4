;; RUN: run --env =3 %s
(module (func (export "_start")))
