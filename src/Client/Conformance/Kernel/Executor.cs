using System.Buffers.Binary;

namespace FramePin.Conformance.Kernel;

/// <summary>
/// The program that is traced: an ELF file of one page with three gadgets, so that its address space holds next to
/// nothing. It waits; the tracer sets its registers.
/// </summary>
internal static class Executor
{
    private const ulong LoadAddress = 0x40_0000;
    private const int CodeOffset = 0x100;

    /// <summary>syscall; int3.</summary>
    public const ulong Syscall = LoadAddress + CodeOffset;

    /// <summary>movzx eax, byte [rdi]; int3.</summary>
    public const ulong Load = Syscall + 3;

    /// <summary>mov [rdi], sil; int3.</summary>
    public const ulong Store = Load + 4;

    private static readonly byte[] Code =
    [
        0x0f, 0x05, 0xcc,
        0x0f, 0xb6, 0x07, 0xcc,
        0x40, 0x88, 0x37, 0xcc,
        // entry: mov eax, 34 (pause); syscall; jmp entry
        0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7,
    ];

    private const int EntryOffset = CodeOffset + 11;

    /// <summary>Writes the program to <paramref name="path"/> and makes it executable.</summary>
    public static void Write(string path)
    {
        var image = new byte[CodeOffset + Code.Length];
        var header = image.AsSpan();
        ReadOnlySpan<byte> identity = [0x7f, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1];
        identity.CopyTo(header);
        BinaryPrimitives.WriteUInt16LittleEndian(header[16..], 2);
        BinaryPrimitives.WriteUInt16LittleEndian(header[18..], 62);
        BinaryPrimitives.WriteUInt32LittleEndian(header[20..], 1);
        BinaryPrimitives.WriteUInt64LittleEndian(header[24..], LoadAddress + EntryOffset);
        BinaryPrimitives.WriteUInt64LittleEndian(header[32..], 64);
        BinaryPrimitives.WriteUInt16LittleEndian(header[52..], 64);
        BinaryPrimitives.WriteUInt16LittleEndian(header[54..], 56);
        BinaryPrimitives.WriteUInt16LittleEndian(header[56..], 2);
        Segment(header[64..], type: 1, flags: 5, LoadAddress, (ulong)image.Length, align: 0x1000);
        // PT_GNU_STACK without the execute bit, or every readable mapping becomes executable.
        Segment(header[120..], type: 0x6474_e551, flags: 6, 0, 0, align: 16);
        Code.CopyTo(image, CodeOffset);
        File.WriteAllBytes(path, image);
        if (OperatingSystem.IsLinux())
            File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
    }

    private static void Segment(Span<byte> at, uint type, uint flags, ulong address, ulong size, ulong align)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(at, type);
        BinaryPrimitives.WriteUInt32LittleEndian(at[4..], flags);
        BinaryPrimitives.WriteUInt64LittleEndian(at[16..], address);
        BinaryPrimitives.WriteUInt64LittleEndian(at[24..], address);
        BinaryPrimitives.WriteUInt64LittleEndian(at[32..], size);
        BinaryPrimitives.WriteUInt64LittleEndian(at[40..], size);
        BinaryPrimitives.WriteUInt64LittleEndian(at[48..], align);
    }
}
