#include "textflag.h"

// FOLD moves the 16-byte lanes of z over the distance whose multipliers are in k, and adds what is at
// the place they come to. t is overwritten.
#define FOLD(z, k, t, place) \
	VPCLMULQDQ $0x00, k, z, t; \
	VPCLMULQDQ $0x11, k, z, z; \
	VPTERNLOGQ $0x96, place, t, z

// func fold(state uint32, p *byte, n int, by *[3][2]uint64) uint32
TEXT ·fold(SB), NOSPLIT, $0-36
	MOVL state+0(FP), AX
	MOVQ p+8(FP), SI
	MOVQ n+16(FP), CX
	MOVQ by+24(FP), DI

	// Four times 64 bytes; the state goes to the first four.
	VMOVD      AX, X4
	VPXORQ     (SI), Z4, Z0
	VMOVDQU64  64(SI), Z1
	VMOVDQU64  128(SI), Z2
	VMOVDQU64  192(SI), Z3
	ADDQ       $256, SI
	SUBQ       $256, CX
	CMPQ       CX, $256
	JLT        join

	VBROADCASTI32X4 (DI), Z8

loop:
	FOLD(Z0, Z8, Z4, (SI))
	FOLD(Z1, Z8, Z5, 64(SI))
	FOLD(Z2, Z8, Z6, 128(SI))
	FOLD(Z3, Z8, Z7, 192(SI))
	ADDQ $256, SI
	SUBQ $256, CX
	CMPQ CX, $256
	JGE  loop

join:
	VBROADCASTI32X4 16(DI), Z8
	FOLD(Z0, Z8, Z4, Z1)
	FOLD(Z0, Z8, Z4, Z2)
	FOLD(Z0, Z8, Z4, Z3)

rest:
	TESTQ CX, CX
	JZ    lanes
	FOLD(Z0, Z8, Z4, (SI))
	ADDQ  $64, SI
	SUBQ  $64, CX
	JMP   rest

lanes:
	VMOVDQU       32(DI), X8
	VEXTRACTI32X4 $1, Z0, X1
	VEXTRACTI32X4 $2, Z0, X2
	VEXTRACTI32X4 $3, Z0, X3
	FOLD(Z0, Z8, Z4, Z1)
	FOLD(Z0, Z8, Z4, Z2)
	FOLD(Z0, Z8, Z4, Z3)

	// What is left has the same remainder as all: its checksum is the state.
	XORL    AX, AX
	VMOVQ   X0, BX
	CRC32Q  BX, AX
	VPEXTRQ $1, X0, BX
	CRC32Q  BX, AX
	VZEROUPPER
	MOVL    AX, ret+32(FP)
	RET
