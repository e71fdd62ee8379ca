using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using FramePin.Core.Addressing;
using FramePin.Core.Kernel;

namespace FramePin.Core.Inspection;

/// <summary>
/// SHA-256 over areas, page tables, frame records, files and counters: equal digests, equal states. The contents of
/// memory are left out, since attached processes store by themselves.
/// </summary>
public readonly record struct DigestQuery : IQuery<string>
{
    public string Run(in Turn turn) => Digest(turn.Kernel);

    private static string Digest(KernelState kernel)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        Span<byte> word = stackalloc byte[8];
        void Add(ulong value, Span<byte> buffer)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(buffer, value);
            hash.AppendData(buffer);
        }

        foreach (var space in kernel.Spaces)
        {
            hash.AppendData(Encoding.UTF8.GetBytes(space.Name));
            Add(space.Brk, word);
            Add(space.HasPinned ? 1UL : 0, word);
            foreach (var vma in space.Vmas.All)
            {
                Add(vma.Start, word);
                Add(vma.End, word);
                Add((ulong)vma.Flags, word);
                Add(vma.PageOffset, word);
                Add((ulong)(vma.File?.Id ?? 0), word);
                Add((ulong)(vma.Device?.Id.Value ?? 0), word);
                Add((ulong)(vma.AnonVma?.Id ?? 0), word);
            }

            var leaves = space.PageTable.Leaves(0, space.TaskSize);
            while (leaves.MoveNext())
            {
                Add(leaves.Address, word);
                Add(leaves.Entry, word);
            }
        }

        foreach (var file in kernel.Files.Values)
        {
            Add((ulong)file.Id, word);
            Add(file.Size, word);
            foreach (var (index, head) in file.CachedFolios())
            {
                Add(index, word);
                Add(head.Value, word);
            }
        }

        foreach (var zone in new[] { kernel.Memory.Normal, kernel.Memory.Movable })
        {
            Add(zone.FreeFrames, word);
            for (var pfn = zone.Start; pfn < zone.Watermark; pfn++)
            {
                var info = kernel.Memory.Frames[new Pfn(pfn)];
                Add((ulong)kernel.Memory.Frames.Counts[pfn], word);
                Add((ulong)info.Flags | ((ulong)info.Order << 32), word);
                Add((ulong)(uint)info.MapCount | ((ulong)info.FileId << 32), word);
                Add(info.Index, word);
            }
        }

        foreach (var (number, count, cached) in kernel.Swap?.Slots ?? [])
        {
            Add(number, word);
            Add((ulong)count, word);
            Add(cached.Value, word);
        }

        Add((ulong)kernel.Memory.Statistics.Acquired, word);
        Add((ulong)kernel.Memory.Statistics.Released, word);
        return Convert.ToHexStringLower(hash.GetHashAndReset());
    }
}
