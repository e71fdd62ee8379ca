using FramePin.Core.Abi;
using FramePin.Core.Addressing;

namespace FramePin.Conformance.Scripts;

/// <summary>Mappings and files, with lengths and offsets at both ends of the 64-bit range.</summary>
public sealed partial class Generator
{
    /// <summary>Index of the hugetlb file among <see cref="FileSpec.All"/>.</summary>
    private const ulong HugeFile = 6;

    /// <summary>Index of the counter's page among <see cref="FileSpec.All"/>.</summary>
    private const int CounterFile = 9;

    private const ulong LastPage = ulong.MaxValue & PageGeometry.PageMask;
    private const ulong SignBit = 1UL << 63;

    /// <summary>
    /// Offsets in bytes around the last ones that a file, a signed number and a page number reach, and one that is no
    /// multiple of a page.
    /// </summary>
    private static readonly ulong[] EdgeOffsets =
    [
        1UL << 44, 1UL << 48, SignBit - (2 * Huge), SignBit - Huge, SignBit - (2 * Page), SignBit - Page, SignBit,
        LastPage - Page, LastPage, Page / 2,
    ];

    /// <summary>
    /// A length that wraps, by itself when it is rounded or together with any address of a script: no call does
    /// anything for it.
    /// </summary>
    private ulong PickWrappingLength() => Pick<ulong>([ulong.MaxValue, LastPage + 1, LastPage, LastPage - 1]);

    /// <summary>Bytes above the start of the heap; one time in twelve an address that no heap reaches.</summary>
    private ulong PickBreak() => Chance(12)
        ? Pick<ulong>([ulong.MaxValue, LastPage + 1, LastPage, LastPage - 1, SignBit]) - initial.StartBrk
        : (ulong)_random.Next(0, 12) * (Page / 2);

    private ulong PickOffsetInFile() =>
        Chance(20) ? Pick<ulong>([SignBit - 1, SignBit, ulong.MaxValue]) : (ulong)_random.Next(0, 18) * Page;

    /// <summary>The kernel writes into the first half of a counter's page; scripts use the second.</summary>
    private ulong PickByteAt(IReadOnlyList<Area> areas, ulong address)
    {
        var offset = PickOffset();
        return areas.Any(area => area.IsCounterPage && area.Range.Contains(address))
            ? (address & ~(Page - 1)) + (Page / 2) + (offset / 2)
            : address + offset;
    }

    /// <summary>The page of a counter, as perf_mmap takes it: shared, whole, from its beginning.</summary>
    private Step MmapCounter(int process, ulong address)
    {
        var flags = MapFlags.Shared | (Chance(3) ? MapFlags.None : MapFlags.Fixed)
            | (Chance(8) ? MapFlags.Populate : MapFlags.None) | (Chance(12) ? MapFlags.Locked : MapFlags.None);
        return new Step(process, StepKind.Mmap, address, Page, PickProt(), (ulong)flags, CounterFile + 1, 0);
    }

    private Step Truncate(int process)
    {
        var file = PickFile();
        var size = file == HugeFile && !Chance(4) ? (ulong)_random.Next(0, 3) * Huge : PickSize();
        return new Step(process, StepKind.Truncate, file, Chance(20) ? Pick<ulong>([SignBit, ulong.MaxValue]) : size);
    }

    private Step PunchHole(int process)
    {
        var file = PickFile();
        var unit = file == HugeFile ? Huge : Page;
        var (offset, length) = ((ulong)_random.Next(0, 16) * unit, (ulong)_random.Next(1, 5) * unit);
        if (file == HugeFile) offset %= 2 * Huge;
        if (Chance(20)) offset = Pick<ulong>([SignBit - 1, SignBit, LastPage]);
        if (Chance(20)) length = Pick<ulong>([SignBit - 1, SignBit, ulong.MaxValue]);
        return new Step(process, StepKind.PunchHole, file, offset, length);
    }

    private Step Mmap(int process, ulong address, ulong length)
    {
        if (Chance(15) && !initial.MissingFiles.Contains(CounterFile)) return MmapCounter(process, address);
        var prot = PickProt();
        var type = _random.Next(10);
        var extra = (ulong)(Chance(12) ? MapFlags.NoReserve : 0) | (ulong)(Chance(10) ? MapFlags.Populate : 0)
            | (ulong)(Chance(20) ? MapFlags.Locked : 0) | (ulong)(Chance(25) ? MapFlags.Stack : 0)
            | (ulong)(Chance(25) ? MapFlags.Map32Bit : 0) | (ulong)(Chance(30) ? MapFlags.Sync : 0);
        var placed = _random.Next(10) switch
        {
            < 6 => (ulong)MapFlags.Fixed,
            6 => (ulong)MapFlags.FixedNoReplace,
            7 => 0UL,
            _ => ulong.MaxValue,
        };
        if (placed == ulong.MaxValue) (address, placed) = (0, 0);
        ulong file = 0, offset = 0;
        var flags = extra | placed;
        switch (type)
        {
            case < 4:
                flags |= (ulong)(MapFlags.Private | MapFlags.Anonymous);
                if (Chance(15)) flags |= (ulong)MapFlags.GrowsDown;
                break;
            case 4 or 5: flags |= (ulong)(MapFlags.Shared | MapFlags.Anonymous); break;
            case 6 or 7 or 8:
                file = PickFile() + 1;
                offset = (ulong)_random.Next(0, 10) * Page;
                if (FileSpec.All[(int)file - 1].Kind == Core.Backing.FileKind.HugeTlb)
                {
                    offset = (ulong)_random.Next(0, 2) * Huge;
                    if (Chance(8)) offset += Page;
                    if (!Chance(6)) (address, length) = (PageGeometry.AlignDown(address, Huge), Huge);
                }

                flags |= (ulong)(Chance(2) ? MapFlags.Private : Chance(6) ? MapFlags.SharedValidate : MapFlags.Shared);
                break;
            default:
                if (Chance(3)) flags |= (ulong)(MapFlags.Droppable | MapFlags.Anonymous);
                else if (Chance(2))
                {
                    flags |= (ulong)(MapFlags.Private | MapFlags.Anonymous | MapFlags.HugeTlb);
                    if (!Chance(6)) (address, length) = (PageGeometry.AlignDown(address, Huge), Huge);
                }
                else
                {
                    flags |= (ulong)(MapFlags.Private | MapFlags.Anonymous);
                    prot = 3;
                    extra = 0;
                }

                break;
        }

        if (Chance(20)) offset = Pick(EdgeOffsets);
        return new Step(process, StepKind.Mmap, address, length, prot, flags, file, offset);
    }
}
