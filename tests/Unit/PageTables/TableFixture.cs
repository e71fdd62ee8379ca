using FramePin.Core.Addressing;
using FramePin.Core.PageTables;
using Xunit;

namespace FramePin.Tests.Unit.PageTables;

/// <summary>One page table with a pool of its own.</summary>
public abstract class TableFixture : IDisposable
{
    internal const ulong Page = PageGeometry.PageSize;
    internal const ulong Huge = PageGeometry.PmdSize;

    private readonly TablePool _pool = new(256);

    private protected TableFixture() => Table = PageTable.Create(_pool)!;

    private protected PageTable Table { get; }

    public void Dispose()
    {
        _pool.Dispose();
        GC.SuppressFinalize(this);
    }

    /// <summary>Maps a leaf of 2^<paramref name="order"/> frames to the frame of its own number.</summary>
    private protected void Put(ulong address, int order)
    {
        var slot = Table.Ensure(address, order);
        Assert.True(slot.Exists);
        Table[slot] = Pte.Leaf(
            new Pfn(address >> PageGeometry.PageShift), Pte.Present | (order > 0 ? Pte.Huge : 0));
    }
}
